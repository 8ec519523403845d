"""Which slot a prompt gets, and how much of it it need not compute."""

from __future__ import annotations

from samovar_server.engine.slots import LEAST_SHARED, SlotPool, Trim, common_prefix


def test_what_is_shared_counts_if_it_is_worth_it_and_never_the_last_token() -> None:
    prompt = list(range(100))
    assert common_prefix(prompt, prompt) == 99
    assert common_prefix(prompt[:64], prompt) == 64
    assert common_prefix(prompt, prompt[:64]) == 63
    assert common_prefix(prompt[:LEAST_SHARED], prompt) == LEAST_SHARED
    assert common_prefix(prompt[: LEAST_SHARED - 1], prompt) == 0
    assert common_prefix([*prompt[:70], -1, *prompt[71:]], prompt) == 70


def test_a_free_slot_with_the_prefix_is_continued() -> None:
    pool = SlotPool(3)
    prompt = list(range(80))
    slot = pool.acquire(prompt).slot
    pool.prefilled(slot, prompt)
    pool.release(slot)
    again = pool.acquire([*prompt[:40], 7, 7])
    assert (again.slot, again.source, again.cached_tokens) == (slot, slot, 40)


def test_what_was_generated_is_a_prefix_too_once_the_slot_is_given_back() -> None:
    pool = SlotPool(2)
    slot = pool.acquire(list(range(40))).slot
    pool.prefilled(slot, list(range(40)))
    assert pool.longest_prefix([*range(60)])[1] == 40
    pool.release(slot, [40, 41, 42])
    assert pool.longest_prefix([*range(60)])[1] == 43
    assert pool.acquire([*range(41), 7]).cached_tokens == 41
    assert pool.longest_prefix([*range(60)])[1] == 41, "the rest is written over"


def test_a_busy_slot_with_the_prefix_is_copied_from() -> None:
    pool = SlotPool(3)
    prompt = list(range(80))
    first = pool.acquire(prompt).slot
    pool.prefilled(first, prompt)
    second = pool.acquire(prompt)
    assert second.slot != first
    assert (second.source, second.cached_tokens) == (first, 79)


def test_slots_without_a_prefix_go_first_then_the_one_unused_longest() -> None:
    pool = SlotPool(3)
    for start in (0, 1000):
        slot = pool.acquire([start] * 40).slot
        pool.prefilled(slot, [start] * 40)
    pool.release(1)
    pool.release(0)
    assert pool.acquire([5] * 40).slot == 2
    assert pool.acquire([6] * 40).slot == 1
    assert pool.acquire([7] * 40).slot == 0
    assert pool.free == 0


def test_a_prefix_is_found_under_its_own_salt_only() -> None:
    pool = SlotPool(3)
    prompt = list(range(80))
    for salt in ("ada", "bob"):
        slot = pool.acquire(prompt, salt)
        assert slot.cached_tokens == 0
        pool.prefilled(slot.slot, prompt)
        pool.release(slot.slot)
    assert pool.acquire(prompt, "ada").cached_tokens > 0
    assert pool.acquire(prompt, "cleo").cached_tokens == 0  # in the slot of another, whose prefix is gone
    assert pool.acquire(prompt, "bob").cached_tokens > 0


def test_what_no_prompt_can_use_goes_first_then_the_prefix_that_was_unused_longest() -> None:
    pool = SlotPool(3)
    slots = [pool.acquire([start] * 40).slot for start in range(3)]
    for slot in slots:
        pool.prefilled(slot, [slot] * 40)
    assert pool.fit(dict.fromkeys(slots, 50), 150) == []
    pool.release(1)
    pool.release(0)
    assert pool.fit({2: 51}, 151) == []
    assert pool.fit({2: 60}, 150) == [Trim(0, 40)], "ten generated tokens"
    assert pool.fit({2: 65}, 120) == [Trim(1, 0)]
    assert pool.longest_prefix([1] * 41)[1] == 0
    assert pool.longest_prefix([0] * 41)[1] > 0
