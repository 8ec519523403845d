"""The engine on the real model, against transformers itself: the same tokens, the same bits in company."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.core import Delivery, Engine
from samovar_server.engine.kernels.jit import has_threads
from samovar_server.engine.loading import LoadedWeights, load
from samovar_server.engine.runner import Runner
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.engine.text import TextStream, render_chat
from samovar_server.loader.spec import WorkerSpec
from samovar_server.protocol.sampling import SamplingParams
from tests.extension.engine.helpers import CheapRows

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Each engine has threads of its own, and more of them than cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


QUESTIONS = [
    "What is the capital of France?",
    "Write a short story about a samovar in a mountain village where it never stops snowing.",
    "List three prime numbers.",
    "Explain photosynthesis to a child. " * 12,
    "Hi",
    "Translate 'good morning' to Russian, and say the 🫖 emoji's name.",
]


class Recorder(Runner):
    """A runner that keeps the logits behind every token, by slot and position; and counts drafts."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: dict[tuple[int, int], torch.Tensor] = {}
        self.drafted = 0

    def run(self, tokens: Any, pieces: Any) -> torch.Tensor:
        logits = super().run(tokens, pieces)
        rows = iter(logits)
        for new in tokens:
            self.seen[new.slot, new.position] = next(rows).clone()
            self.drafted += new.ahead > 0
        for piece in pieces:
            for mine in [next(rows) for _ in range(piece.rows)]:
                self.seen[piece.slot, piece.end - 1] = mine.clone()
        return logits

    def behind(self, sequence: Sequence) -> torch.Tensor:
        """The logits by which the tokens of its output were chosen."""
        first = len(sequence.prompt) - 1
        return torch.stack([self.seen[sequence.slot, first + n] for n in range(len(sequence.output))])


class Run:
    """Requests on an engine of their own, with the logits of each."""

    def __init__(
        self, loaded: LoadedWeights, slots: int = 16, room: int | None = None, *, speculative: bool = False
    ) -> None:
        self.loaded = loaded
        self.runner = Recorder(loaded.model, slots, 2048)
        self.logits: dict[int, torch.Tensor] = {}
        self.engine = Engine(
            self.runner,
            ComputeThread(),
            slots=slots,
            max_queue=100,
            room=room,
            speculative=speculative,
            cost=CheapRows(),  # drafts whatever steps take here
            deliver=self._deliver,
            on_failure=lambda error: None,
        )
        self.engine.start()

    def submit(
        self, prompt: list[int], max_tokens: int, params: SamplingParams
    ) -> tuple[Sequence, threading.Event]:
        done = threading.Event()

        def took(output: Output) -> None:
            if output.finish_reason is not None:
                self.logits[id(sequence)] = self.runner.behind(sequence)
                done.set()

        params = replace(params, stop_tokens=self.loaded.stop_tokens)
        sequence = Sequence(prompt, params, max_tokens, TextStream(self.loaded.tokenizer, []), took)
        self.engine.submit(sequence)
        return sequence, done

    def generate(self, prompt: list[int], max_tokens: int, params: SamplingParams) -> Sequence:
        sequence, done = self.submit(prompt, max_tokens, params)
        assert done.wait(120)
        return sequence

    def _deliver(self, outputs: Delivery) -> None:
        for sequence, output in outputs:
            sequence.emit(output)


@pytest.fixture(scope="module")
def loaded(demo_model: Path) -> LoadedWeights:
    spec = WorkerSpec(str(demo_model), "demo", "cpu", "float32", "none", None, 16, 16, "secret")
    return load(spec, lambda fraction: None)


@pytest.fixture
def run(loaded: LoadedWeights) -> Iterator[Run]:
    run = Run(loaded)
    yield run
    run.engine.stop()


@pytest.fixture(scope="module")
def reference(demo_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32).eval()


def prompts(loaded: LoadedWeights) -> list[list[int]]:
    return [render_chat(loaded.tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]


def test_greedy_equals_generate_on_ragged_concurrent_prompts(
    run: Run, loaded: LoadedWeights, reference: Any
) -> None:
    greedy = SamplingParams(temperature=0)
    started = [run.submit(prompt, 40, greedy) for prompt in prompts(loaded)]
    for sequence, done in started:
        assert done.wait(120)
        ids = torch.tensor([sequence.prompt])
        theirs = reference.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, use_cache=True
        )
        assert sequence.output == theirs[0, ids.shape[1] :].tolist()


def test_logits_agree_with_the_model_without_a_cache(run: Run, loaded: LoadedWeights, reference: Any) -> None:
    prompt = prompts(loaded)[3]
    sequence = run.generate(prompt, 10, SamplingParams(temperature=0))
    with torch.inference_mode():
        whole = reference(torch.tensor([prompt + sequence.output[:-1]])).logits[0, len(prompt) - 1 :]
    torch.testing.assert_close(run.logits[id(sequence)], whole, atol=2e-3, rtol=1e-3)


@pytest.mark.skipif(not has_threads(), reason="without our products there is no such promise")
@pytest.mark.parametrize("seed", range(4))
def test_same_request_same_bits_in_any_company(seed: int, loaded: LoadedWeights) -> None:
    rng = random.Random(seed)
    prompt = prompts(loaded)[rng.choice([0, 1, 3])]
    params = SamplingParams(temperature=0.8, top_p=0.9, seed=seed)
    alone = Run(loaded)
    lonely = alone.generate(prompt, 24, params)
    again = alone.generate(prompt, 24, params)
    assert again.cached_tokens > 0 or len(prompt) <= 32
    alone.engine.stop()

    # With a room some wait and pause for want of memory; with drafts some tokens are computed ahead.
    crowd = Run(loaded, room=3072 if seed % 2 else None, speculative=True)
    others = [[rng.randrange(3, 40_000) for _ in range(rng.randrange(1, 300))] for _ in range(14)]
    others.insert(rng.randrange(15), [rng.randrange(3, 40_000) for _ in range(rng.randrange(400, 900))])
    at = rng.randrange(16)
    started: list[tuple[Sequence, threading.Event]] = []
    for number in range(16):
        if number == at:
            among = crowd.submit(prompt, 24, params)
            started.append(among)
        else:
            other = others.pop()
            if rng.random() < 0.3:
                other = prompt[:40] + other
            started.append(crowd.submit(other, rng.randrange(1, 30), SamplingParams(seed=number)))
    for _, done in started:
        assert done.wait(120)
    crowd.engine.stop()

    bits = alone.logits[id(lonely)]
    assert torch.equal(alone.logits[id(again)], bits), "a reused prefix shows"
    assert torch.equal(crowd.logits[id(among[0])], bits), "the neighbours show"
    assert lonely.output == again.output == among[0].output


@pytest.mark.skipif(not has_threads(), reason="without our products there is no such promise")
def test_a_chat_goes_on_where_its_answer_ended_and_nobody_can_tell(loaded: LoadedWeights) -> None:
    prompt = prompts(loaded)[3]
    run, afresh = Run(loaded), Run(loaded)
    first = run.generate(prompt, 30, SamplingParams(temperature=0))
    follow_up = [*prompt, *first.output, *prompts(loaded)[0]]
    second = run.generate(follow_up, 10, SamplingParams(temperature=0))
    assert second.cached_tokens == len(prompt) + len(first.output) - 1
    expected = afresh.generate(follow_up, 10, SamplingParams(temperature=0))
    assert expected.cached_tokens == 0
    assert torch.equal(run.logits[id(second)], afresh.logits[id(expected)])
    for each in (run, afresh):
        each.engine.stop()


@pytest.mark.skipif(not has_threads(), reason="without exact products there is no speculative decoding")
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_drafts_change_no_bit_of_an_answer(loaded: LoadedWeights, temperature: float) -> None:
    text = "Say this again, word by word: the samovar hums, the snow falls, the samovar hums, the snow falls."
    repeats = render_chat(loaded.tokenizer, [{"role": "user", "content": text}])
    runs = Run(loaded), Run(loaded, speculative=True)
    for seed, prompt in enumerate([repeats, *prompts(loaded)[:3]]):
        params = SamplingParams(temperature=temperature, seed=seed)
        plain, drafted = (run.generate(prompt, 60, params) for run in runs)
        assert drafted.output == plain.output
        assert torch.equal(runs[1].logits[id(drafted)], runs[0].logits[id(plain)])
    stats = runs[1].engine.stats
    assert stats.draft_tokens == runs[1].runner.drafted > stats.accepted_tokens > 0
    assert runs[0].runner.drafted == 0
    for run in runs:
        run.engine.stop()
