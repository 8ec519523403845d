"""The step loop over a model that is a rule: nothing lost, nothing mixed, slots freed at once."""

from __future__ import annotations

import random
import threading

import pytest
import torch

from samovar_server.engine.pace import MOST_TOKENS
from samovar_server.engine.scheduler import Scheduler
from samovar_server.engine.sequence import Sequence
from samovar_server.engine.text import TextStream
from samovar_server.errors import InvalidRequest, QueueFull, SamovarError
from samovar_server.protocol.place import Place
from samovar_server.protocol.sampling import SamplingParams
from tests.extension.engine.helpers import Bench, Digits, expected, next_token, text_of


def test_one_request_from_prompt_to_length() -> None:
    with Bench() as bench:
        request = bench.submit([1, 2, 3], max_tokens=5)
        assert request.done.wait(30)
    assert request.text == text_of(expected([1, 2, 3], 5))
    assert request.reason == "length"
    assert request.outputs[-1].completion_tokens == 5


@pytest.mark.parametrize("seed", range(25))
def test_many_ragged_requests_with_shared_prefixes(seed: int) -> None:
    rng = random.Random(seed)
    shared = [rng.randrange(97) for _ in range(200)]
    with Bench(slots=rng.choice([1, 2, 4, 8])) as bench:
        requests = []
        for _ in range(20):
            prompt = shared[: rng.randrange(200)] + [rng.randrange(97) for _ in range(rng.randrange(1, 80))]
            requests.append(bench.submit(prompt, max_tokens=rng.randrange(1, 30)))
        bench.check_answers(requests, dropped=rng.sample(requests, 5))
    assert bench.engine.running == bench.engine.waiting == 0
    assert not bench.failure


def test_a_repeated_prompt_is_computed_once_but_for_its_last_token() -> None:
    prompt = list(range(90)) + [3] * 10
    with Bench() as bench:
        first = bench.submit(prompt, max_tokens=3)
        assert first.done.wait(30)
        again = bench.submit(prompt, max_tokens=3)
        assert again.done.wait(30)
    assert again.text == first.text
    assert (first.sequence.cached_tokens, again.sequence.cached_tokens) == (0, 99)


def test_a_chat_goes_on_from_what_was_generated() -> None:
    prompt = list(range(40))
    with Bench() as bench:
        first = bench.submit(prompt, max_tokens=40)
        assert first.done.wait(30)
        follow_up = prompt + expected(prompt, 40) + [3] * 10
        turn = bench.submit(follow_up, max_tokens=2)
        assert turn.done.wait(30)
    assert turn.sequence.cached_tokens == 79, "all but the answer's last token, which nobody computed"
    assert turn.text == text_of(expected(follow_up, 2))


def test_text_that_may_begin_a_stop_string_is_shown_when_the_answer_ends_before_it_is_one() -> None:
    last = f"<{expected([1, 2], 3)[-1]}>"
    with Bench() as bench:
        request = bench.submit([1, 2], max_tokens=3, stops=[last + "!"])
        assert request.done.wait(30)
    assert (request.text, request.reason) == (text_of(expected([1, 2], 3)), "length")


def test_a_prompt_can_start_from_the_slot_of_a_running_request() -> None:
    prompt = list(range(90))
    with Bench() as bench:
        bench.runner.gate = threading.Semaphore(2)
        first = bench.submit(prompt, max_tokens=50)
        assert first.some.wait(30)
        second = bench.submit(prompt, max_tokens=50)
        bench.runner.gate.release(1000)
        assert first.done.wait(30)
        assert second.done.wait(30)
    assert second.sequence.cached_tokens == 89
    assert second.text == first.text == text_of(expected(prompt, 50))


def test_a_long_prompt_does_not_stall_the_others_tokens() -> None:
    with Bench() as bench:
        bench.runner.gate = threading.Semaphore(1)
        short = bench.submit([1], max_tokens=100)
        assert short.some.wait(30)
        long = bench.submit(list(range(90)) * 4, max_tokens=1)
        bench.runner.gate.release(1000)
        assert long.done.wait(30)
        assert short.done.wait(30)
    began = next(n for n, call in enumerate(bench.runner.calls) if n and call.pieces)
    ended = max(n for n, call in enumerate(bench.runner.calls) if call.pieces)
    beside = bench.runner.calls[began : ended + 1]
    assert len(beside) > 1, "the whole prompt in one step"
    assert all(call.decoded == 1 for call in beside), "a step that gave the short one no token"
    assert all(sum(call.pieces) <= MOST_TOKENS for call in beside)


def test_prompts_that_wait_together_are_computed_together() -> None:
    with Bench(slots=8) as bench:
        bench.runner.gate = threading.Semaphore(0)
        requests = [bench.submit([n, n + 1, n + 2], max_tokens=2) for n in range(8)]
        bench.runner.gate.release(1000)
        for request in requests:
            assert request.done.wait(30)
    # The engine may have begun the first alone, before the others were there.
    assert sum(bool(call.pieces) for call in bench.runner.calls) <= 2


def beside(bench: Bench, decoding: int, prompts: list[list[int]]) -> list[int]:
    """Prompt tokens of each step that has some, when `prompts` come to `decoding` others."""
    bench.runner.gate = threading.Semaphore(1000)
    others = [bench.submit([90 + n], max_tokens=10_000) for n in range(decoding)]
    for other in others:
        assert other.some.wait(30)
    bench.runner.gate = threading.Semaphore(0)
    before = len(bench.runner.calls)
    newcomers = [bench.submit(prompt, max_tokens=1) for prompt in prompts]
    bench.runner.gate.release(1000)
    for newcomer in newcomers:
        assert newcomer.done.wait(30)
    return [tokens for call in bench.runner.calls[before:] if (tokens := sum(call.pieces))]


def test_many_short_prompts_do_not_wait_for_the_few_that_decode() -> None:
    with Bench(slots=8) as bench:
        assert beside(bench, 1, [[n] * 40 for n in range(6)]) == [240]


@pytest.mark.parametrize(
    ("decoding", "prompts"),
    [(4, [[n] * 100 for n in range(2)]), (3, [[1] * 400, [2] * 10, [3] * 10])],
    ids=["few short ones", "a long one is the first"],
)
def test_otherwise_those_that_decode_are_not_stalled(decoding: int, prompts: list[list[int]]) -> None:
    with Bench(slots=8) as bench:
        taken = beside(bench, decoding, prompts)
    assert len(taken) > 1
    assert max(taken) < 200


def test_samples_of_one_prompt_share_its_computation() -> None:
    prompt = list(range(90))
    with Bench(slots=4) as bench:
        requests = [bench.submit(prompt, max_tokens=2) for _ in range(4)]
        for request in requests:
            assert request.done.wait(30)
    assert sum(sum(call.pieces) for call in bench.runner.calls) == 90 + 3
    assert {request.text for request in requests} == {text_of(expected(prompt, 2))}


def test_an_abort_frees_the_slot_within_one_step() -> None:
    with Bench(slots=1) as bench:
        bench.runner.gate = threading.Semaphore(3)
        endless = bench.submit([1], max_tokens=10_000)
        assert endless.some.wait(30)
        bench.engine.abort(endless.sequence)
        waiting = bench.submit([5], max_tokens=2)
        bench.runner.gate.release(4)  # one step that had begun, and the two of `waiting`
        assert waiting.done.wait(30)
    assert waiting.text == text_of(expected([5], 2))
    assert endless.reason is None


def test_a_stop_string_and_a_stop_token_end_the_text() -> None:
    tokens = expected([4, 4], 10)
    with Bench() as bench:
        request = bench.submit([4, 4], max_tokens=10, stops=[f"><{tokens[3]}"])
        assert request.done.wait(30)
    assert request.reason == "stop"
    assert request.text == text_of(tokens[:3])[:-1]
    with Bench() as bench:
        request = bench.submit([4, 4], max_tokens=10, stop_tokens=frozenset({tokens[3]}))
        assert request.done.wait(30)
    assert request.reason == "stop"
    assert request.text == text_of(tokens[:3])
    assert request.outputs[-1].completion_tokens == 4


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    with Bench(slots=1, max_queue=1) as bench:
        bench.runner.gate = threading.Semaphore(1)
        first = bench.submit([1], max_tokens=50)
        assert first.some.wait(30)
        second = bench.submit([2], max_tokens=1)
        with pytest.raises(QueueFull) as refused:
            bench.submit([3], max_tokens=1)
        assert refused.value.retry_after == 1
        bench.runner.gate.release(1000)
        assert second.done.wait(30)


def test_dropping_what_found_no_place_in_the_queue_harms_nobody() -> None:
    with Bench(slots=1, max_queue=1) as bench:
        bench.runner.gate = threading.Semaphore(1)
        first = bench.submit([1], max_tokens=5)
        assert first.some.wait(30)
        second = bench.submit([2], max_tokens=1)
        refused = sequence_of([3])
        with pytest.raises(QueueFull):
            bench.engine.submit(refused)
        bench.engine.abort(refused)
        bench.runner.gate.release(1000)
        assert first.done.wait(30)
        assert second.done.wait(30)
        assert not bench.failure


def test_a_failure_between_two_steps_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(scheduler: Scheduler, sequence: Sequence) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(Scheduler, "remove", fail)
    with Bench() as bench:
        bench.engine.abort(sequence_of([1]))
        assert bench.failed.wait(30)


def sequence_of(prompt: list[int]) -> Sequence:
    return Sequence(prompt, SamplingParams(temperature=0), 1, TextStream(Digits(), []), lambda output: None)


def test_a_newcomer_goes_before_those_who_wait_into_a_slot_that_is_kept_for_him() -> None:
    with Bench(slots=3, reserve=1) as bench:
        bench.runner.gate = threading.Semaphore(0)
        heavy = [bench.submit([number] * 3, max_tokens=50) for number in range(5)]
        bench.runner.gate.release(3)
        light = bench.submit([9, 9], max_tokens=2, place=Place(express=True))
        bench.runner.gate.release(6)
        assert light.done.wait(30)
        assert (bench.engine.running, bench.engine.waiting) == (2, 3)
        assert not any(request.done.is_set() for request in heavy)
        bench.runner.gate.release(100_000)
        assert all(request.done.wait(30) for request in heavy)


def test_what_was_computed_under_one_salt_is_computed_again_under_another() -> None:
    prompt = list(range(90)) + [3] * 10
    with Bench() as bench:
        cached = []
        for salt in ("ada", "bob", "ada"):
            request = bench.submit(prompt, max_tokens=3, place=Place(salt))
            assert request.done.wait(30)
            cached.append(request.sequence.cached_tokens)
    assert cached == [0, 0, 99]


def test_a_failed_step_is_told_and_ends_the_engine() -> None:
    with Bench() as bench:
        bench.runner.fail_next = True
        request = bench.submit([1], max_tokens=5)
        assert bench.failed.wait(30)
    assert isinstance(bench.failure[0], RuntimeError)
    assert request.outputs == []


def test_scores_of_a_prompt_come_with_the_first_output_and_nothing_is_reused_for_them() -> None:
    prompt = list(range(90)) * 4
    with Bench() as bench:
        plain = bench.submit(prompt, max_tokens=1)
        assert plain.done.wait(30)
        scored = bench.submit(prompt, max_tokens=0, prompt_logprobs=2)
        assert scored.done.wait(30)
    assert scored.sequence.cached_tokens == 0
    assert [(output.text, output.finish_reason) for output in scored.outputs] == [("", "length")]
    scores = scored.sequence.prompt_scores
    assert [score.token for score in scores] == prompt[1:]
    assert all(len(score.top) == 2 for score in scores)
    # The rule gives its own token the logit 1 and all others 0: rank 1 exactly where the prompt obeys it.
    obeys = [score.rank == 1 for score in scores]
    assert obeys == [next_token(prompt[:end]) == prompt[end] for end in range(1, len(prompt))]


def test_tokens_are_scored_when_asked_and_the_stop_token_is_too() -> None:
    tokens = expected([4, 4], 4)
    with Bench() as bench:
        request = bench.submit([4, 4], max_tokens=10, logprobs=1, stop_tokens=frozenset({tokens[3]}))
        assert request.done.wait(30)
    scores = [output.score for output in request.outputs]
    assert [score.token for score in scores if score is not None] == tokens
    assert all(score.top == ((score.token, score.logprob),) for score in scores if score is not None)


class Script:
    """A grammar that allows one text only, and may break on the way."""

    def __init__(self, tokens: list[int], breaks_at: int | None = None) -> None:
        self._tokens = tokens
        self._breaks_at = breaks_at
        self.seen: list[int] = []
        self.ended = False
        self.failure: SamovarError | None = None

    def mask(self, logits: torch.Tensor) -> None:
        allowed = logits[self._tokens[len(self.seen)]].clone()
        logits.fill_(-torch.inf)
        logits[self._tokens[len(self.seen)]] = allowed

    def accept(self, token: int) -> None:
        self.seen.append(token)
        self.ended = self.seen == self._tokens
        if len(self.seen) == self._breaks_at:
            self.failure = InvalidRequest("too complex", param="tools")


def test_a_grammar_decides_the_tokens_and_ends_the_text_but_max_tokens_still_cut_it() -> None:
    with Bench() as bench:
        free = bench.submit([1, 2], max_tokens=8)
        held = bench.submit([1, 2], max_tokens=8, grammar=Script([5, 6, 7]))
        cut = bench.submit([1, 2], max_tokens=2, grammar=Script([5, 6, 7]))
        for request in (free, held, cut):
            assert request.done.wait(30)
    assert (held.text, held.reason) == ("<5><6><7>", "stop")
    assert held.outputs[-1].completion_tokens == 3
    assert (cut.text, cut.reason) == ("<5><6>", "length")
    assert free.text == text_of(expected([1, 2], 8))


def test_a_grammar_that_fails_ends_its_sequence_and_no_other() -> None:
    with Bench() as bench:
        broken = bench.submit([3], max_tokens=8, grammar=Script([5, 6, 7], breaks_at=2))
        other = bench.submit([4], max_tokens=8)
        assert broken.done.wait(30)
        assert other.done.wait(30)
    assert broken.text == "<5>"
    assert broken.reason is None
    assert broken.outputs[-1].error is not None
    assert other.text == text_of(expected([4], 8))
    assert not bench.failure
    assert bench.engine.running == 0


@pytest.mark.parametrize("seed", range(40))
def test_the_cache_takes_no_more_than_its_room_and_all_answers_end(seed: int) -> None:
    rng = random.Random(seed)
    window = 120
    room = rng.randrange(window, 3 * window)
    shared = [rng.randrange(97) for _ in range(60)]
    with Bench(slots=rng.choice([2, 4, 8]), room=room) as bench:
        requests = []
        for _ in range(25):
            prompt = shared[: rng.randrange(60)] + [rng.randrange(97) for _ in range(rng.randrange(1, 40))]
            requests.append(bench.submit(prompt, max_tokens=rng.randrange(1, window - len(prompt))))
        bench.check_answers(requests, dropped=rng.sample(requests, 4))
    assert not bench.failure
    assert bench.runner.most_filled <= room


def test_the_newest_pauses_before_the_room_is_used_up_and_newcomers_wait() -> None:
    with Bench(slots=4, room=110) as bench:
        bench.runner.gate = threading.Semaphore(0)
        first = bench.submit([1] * 10, max_tokens=90)
        second = bench.submit([2] * 10, max_tokens=90)
        third = bench.submit([3] * 10, max_tokens=90)
        bench.runner.gate.release(1000)
        for request in (first, second, third):
            assert request.done.wait(30)
            assert request.text == text_of(expected(request.prompt, 90))
    together = [call.decoded for call in bench.runner.calls]
    assert 1 in together
    assert bench.runner.most_filled <= 110


def test_short_answers_run_together_whatever_they_might_have_come_to() -> None:
    prompt = [1, 2]
    stop = frozenset({expected(prompt, 5)[-1]})
    with Bench(slots=4, room=120) as bench:
        bench.runner.gate = threading.Semaphore(0)
        requests = [bench.submit(prompt, max_tokens=100, stop_tokens=stop) for _ in range(4)]
        bench.runner.gate.release(1000)
        for request in requests:
            assert request.done.wait(30)
    assert max(call.decoded for call in bench.runner.calls) == 4


def test_prefixes_are_kept_as_long_as_there_is_room_for_them() -> None:
    prompt, other = list(range(40)), [90] * 60
    with Bench(slots=2, room=130) as bench:
        for each, cached in ((prompt, 0), (other, 0), (prompt, 39), ([80] * 100, 0), (prompt, 0)):
            request = bench.submit(each, max_tokens=2)
            assert request.done.wait(30)
            assert request.sequence.cached_tokens == cached
