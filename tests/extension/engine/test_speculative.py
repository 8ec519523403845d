"""Speculative decoding in the step loop: the same texts, in fewer steps."""

from __future__ import annotations

import random
import threading

import pytest

from samovar_server.protocol.sampling import SamplingParams
from tests.extension.engine.helpers import Bench, expected, next_token, repeating, text_of

PROMPT = [5, 6, 7, 8, 9, 10, 11] * 3


def test_the_same_text_comes_in_fewer_steps() -> None:
    steps = []
    for speculative in (False, True):
        with Bench(rule=repeating, speculative=speculative) as bench:
            request = bench.submit(PROMPT, max_tokens=200)
            assert request.done.wait(30)
        assert request.text == text_of(expected(PROMPT, 200, repeating))
        assert [output.completion_tokens for output in request.outputs] == list(range(1, 201))
        steps.append(bench.engine.stats.steps)
    assert steps[1] < 0.7 * steps[0]
    stats = bench.engine.stats
    assert stats.draft_tokens == sum(call.drafted for call in bench.runner.calls)
    assert stats.steps + stats.accepted_tokens == stats.generated_tokens == 200


def test_wrong_drafts_change_nothing_and_become_few() -> None:
    prompt = [1, 2] * 40  # what stands in it is soon found not to come again
    with Bench(speculative=True) as bench:
        request = bench.submit(prompt, max_tokens=150)
        assert request.done.wait(30)
    assert request.text == text_of(expected(prompt, 150))
    assert bench.engine.stats.draft_tokens < 150


def test_no_token_is_computed_that_could_not_be_part_of_the_answer() -> None:
    with Bench(rule=repeating, speculative=True) as bench:
        for length in range(1, 12):
            request = bench.submit(PROMPT, max_tokens=length)
            assert request.done.wait(30)
            assert request.text == text_of(expected(PROMPT, length, repeating))
            assert max(map(len, bench.runner.rows)) <= len(PROMPT) + length - 1


def test_an_end_within_a_draft_is_the_end() -> None:
    output = expected(PROMPT, 60, repeating)
    for end in range(20, 40):
        first = output.index(output[end])
        with Bench(rule=repeating, speculative=True) as bench:
            stopped = bench.submit(PROMPT, max_tokens=60, stop_tokens=frozenset({output[end]}))
            cut = bench.submit(PROMPT, max_tokens=60, stops=[f"<{output[end]}>"])
            assert stopped.done.wait(30)
            assert cut.done.wait(30)
        assert (stopped.text, stopped.reason) == (text_of(output[:first]), "stop")
        assert (cut.text, cut.reason) == (text_of(output[:first]), "stop")


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.15, seed=1),
        SamplingParams(temperature=0.2, seed=2, top_p=0.9, min_p=0.01),
        SamplingParams(temperature=0, frequency_penalty=0.3, presence_penalty=0.2),
        SamplingParams(temperature=0.15, seed=3, repetition_penalty=1.3, logit_bias=((4, 0.8),)),
    ],
)
def test_every_token_is_chosen_as_it_would_be_by_itself(sampling: SamplingParams) -> None:
    texts = []
    for speculative in (False, True):
        with Bench(rule=repeating, speculative=speculative) as bench:
            requests = [bench.submit(PROMPT[n:], max_tokens=80, sampling=sampling) for n in range(4)]
            for request in requests:
                assert request.done.wait(30)
            texts.append([(request.text, request.sequence.output) for request in requests])
    assert texts[0] == texts[1]
    assert bench.engine.stats.draft_tokens > 0


def test_scores_are_those_of_each_token() -> None:
    scores = []
    for speculative in (False, True):
        with Bench(rule=repeating, speculative=speculative) as bench:
            request = bench.submit(PROMPT, max_tokens=60, logprobs=2)
            assert request.done.wait(30)
        scores.append([output.score for output in request.outputs])
    assert scores[0] == scores[1]
    assert bench.engine.stats.accepted_tokens > 0


@pytest.mark.parametrize("seed", range(40))
def test_ragged_requests_that_come_and_go_in_little_room(seed: int) -> None:
    rng = random.Random(seed)
    window = 150
    room = rng.choice([None, rng.randrange(window, 3 * window)])
    rule = rng.choice([repeating, repeating, next_token])
    with Bench(slots=rng.choice([1, 2, 4, 8]), room=room, rule=rule, speculative=True) as bench:
        requests = []
        for _ in range(25):
            prompt = (PROMPT * 3)[: rng.randrange(60)] + [
                rng.randrange(97) for _ in range(rng.randrange(1, 30))
            ]
            requests.append(bench.submit(prompt, max_tokens=rng.randrange(1, window - len(prompt))))
        bench.check_answers(requests, dropped=rng.sample(requests, 4))
    assert not bench.failure
    assert bench.engine.running == 0
    if room is not None:
        assert bench.runner.most_filled <= room
    if rule is repeating:
        assert bench.engine.stats.accepted_tokens > 0


def test_steps_that_compute_prompts_check_no_drafts() -> None:
    with Bench(rule=repeating, speculative=True) as bench:
        bench.runner.gate = threading.Semaphore(20)
        first = bench.submit(PROMPT, max_tokens=100)
        assert first.some.wait(30)
        second = bench.submit(list(range(90)) * 3, max_tokens=20)
        bench.runner.gate.release(1000)
        assert first.done.wait(30)
        assert second.done.wait(30)
    assert not any(call.drafted for call in bench.runner.calls if call.pieces)
    assert any(call.drafted for call in bench.runner.calls)
