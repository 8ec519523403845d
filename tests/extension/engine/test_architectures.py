"""Every kind of decoder: in the slots or beside them, the same tokens as transformers' own `generate`."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, T5Config

from samovar_server.engine import selfcheck
from samovar_server.engine.adapters import Adapter
from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.core import Delivery, Engine
from samovar_server.engine.fallback import FallbackRunner
from samovar_server.engine.kernels import attention as kernel
from samovar_server.engine.kernels.jit import has_threads
from samovar_server.engine.loading import UNSTATED_WINDOW, LoadedWeights, load
from samovar_server.engine.pace import MOST_TOKENS
from samovar_server.engine.runner import ModelRunner, Runner
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.engine.serving import Serving, prepare
from samovar_server.engine.step import Runs
from samovar_server.engine.text import TextStream
from samovar_server.errors import LoadFailed
from samovar_server.loader.spec import WorkerSpec
from samovar_server.protocol.sampling import SamplingParams
from tests.extension.engine.helpers import Digits
from tests.extension.engine.tiny_models import FALLBACK, IN_SLOTS, VOCABULARY, WINDOW, write

pytestmark = pytest.mark.usefixtures("quiet_and_small")

NEW_TOKENS = 10
LONG = MOST_TOKENS + 7


def load_tiny(folder: Path, name: str) -> LoadedWeights:
    return load(write(folder, name), lambda fraction: None)


@pytest.fixture(scope="module", params=IN_SLOTS)
def in_slots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, load_tiny(folder, request.param)


def random_tokens(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(3, VOCABULARY) for _ in range(length)]


def prompts() -> list[list[int]]:
    """Ragged; two longer than the sliding window, one than a chunk of prefill, one repeating a prefix."""
    rng = random.Random(1)
    drawn = [random_tokens(rng, length) for length in (3, WINDOW + 50, LONG, 1)]
    return [*drawn, [*drawn[2][:100], 5, 6]]


def continued(
    runner: ModelRunner,
    requests: list[list[int]],
    adapters: Seq[Adapter | None] = (),
    room: int | None = None,
) -> list[Sequence]:
    """The requests, submitted at once to an engine, each with its adapter if there are any, when done."""

    def deliver(outputs: Delivery) -> None:
        for sequence, output in outputs:
            sequence.emit(output)

    failures: list[Exception] = []
    engine = Engine(
        runner,
        ComputeThread(),
        slots=runner.slots,
        max_queue=100,
        room=room,
        deliver=deliver,
        on_failure=failures.append,
    )
    engine.start()
    sequences, ends = [], []
    for prompt, adapter in zip_longest(requests, adapters):
        end = threading.Event()
        sequence = Sequence(
            prompt,
            SamplingParams(temperature=0),
            NEW_TOKENS,
            TextStream(Digits(), []),
            partial(end_on_reason, end),
            adapter=adapter,
        )
        engine.submit(sequence)
        sequences.append(sequence)
        ends.append(end)
    for end in ends:
        assert end.wait(60) or failures
    engine.stop()
    assert not failures
    return sequences


def end_on_reason(end: threading.Event, output: Output) -> None:
    if output.finish_reason is not None:
        end.set()


def generated(folder: Path, requests: list[list[int]]) -> list[list[int]]:
    """What transformers makes of each request alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    outputs = []
    for prompt in requests:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=-1,
            pad_token_id=0,
        )
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


def test_the_slots_give_what_generate_gives(in_slots: tuple[Path, LoadedWeights]) -> None:
    folder, loaded = in_slots
    assert loaded.in_slots
    requests = prompts()
    sequences = continued(Runner(loaded.model, 8, 512), requests)
    assert [sequence.output for sequence in sequences] == generated(folder, requests)
    assert sequences[-1].cached_tokens > 0


def test_scarce_memory_changes_no_token(tmp_path: Path) -> None:
    requests = prompts() * 2
    runner = Runner(load_tiny(tmp_path, "llama").model, 8, 512)
    sequences = continued(runner, requests, room=512)
    assert [sequence.output for sequence in sequences] == generated(tmp_path, requests)
    assert sum(runner.cache.filled) <= 512


@pytest.mark.skipif(not has_threads(), reason="without our products there is no such promise")
def test_same_bits_in_any_company(in_slots: tuple[Path, LoadedWeights]) -> None:
    _, loaded = in_slots

    def logits(slot: int, neighbours: int, chunk: int) -> torch.Tensor:
        rng = random.Random(neighbours)
        runner = Runner(loaded.model, 8, 512)
        others = [row for row in range(neighbours + 1) if row != slot]
        for row in others:
            runner.prefill(row, random_tokens(rng, 20 + row), 0)
        prompt = prompts()[1]
        for start in range(0, len(prompt), chunk):
            last = runner.prefill(slot, prompt[start : start + chunk], start)
        rows = [last]
        for step in range(4):
            tokens = [7 + step, *random_tokens(rng, len(others))]
            positions = [len(prompt) + step, *(20 + row + step for row in others)]
            rows.append(runner.decode([slot, *others], tokens, positions)[:1])
        return torch.cat(rows)

    alone = logits(slot=0, neighbours=0, chunk=128)
    assert torch.equal(logits(slot=2, neighbours=2, chunk=32), alone)
    assert torch.equal(logits(slot=4, neighbours=7, chunk=64), alone)


@pytest.mark.parametrize("name", FALLBACK)
def test_other_models_run_one_at_a_time_and_give_what_generate_gives(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_tiny(tmp_path, name)
    assert not loaded.in_slots
    assert len([record for record in caplog.records if "one request at a time" in record.message]) == 1
    requests = [*prompts()[:3], prompts()[0], prompts()[2]]
    sequences = continued(FallbackRunner(loaded.model, 512), requests)
    assert [sequence.output for sequence in sequences] == generated(tmp_path, requests)
    assert [sequence.cached_tokens for sequence in sequences] == [0] * len(requests)


def test_a_fallback_gives_every_positions_logits(tmp_path: Path) -> None:
    runner = FallbackRunner(load_tiny(tmp_path, "bamba").model, 512)
    prompt = prompts()[1]
    every = runner.prefill(0, prompt, 0, every=True)
    assert every.shape == (len(prompt), VOCABULARY)
    torch.testing.assert_close(runner.prefill(0, prompt, 0), every[-1:])


def test_a_worker_serves_a_state_space_model(tmp_path: Path) -> None:
    serving = prepare(write(tmp_path, "mamba"), lambda phase, fraction: None)
    assert isinstance(serving, Serving)
    assert isinstance(serving.runner, FallbackRunner)
    assert serving.context_length == UNSTATED_WINDOW
    assert serving.inexact_because is None
    assert serving.memory_bytes() > 0


def test_a_fallbacks_memory_grows_with_the_text_where_there_is_attention(tmp_path: Path) -> None:
    runner = FallbackRunner(load_tiny(tmp_path, "jamba").model, 512)
    assert runner.growth_bytes(None) == 0  # nothing is known before the first run
    runner.prefill(0, [5] * 12, 0)
    attention_layers, kv_heads, head_dim, floats = 1, 2, 16, 4
    assert runner.growth_bytes(None) == 500 * attention_layers * 2 * kv_heads * head_dim * floats


def test_a_model_that_differs_in_the_slots_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny(tmp_path, "qwen2-window").model
    assert selfcheck.disagreement(model, 512) is None

    model.config.sliding_window = 8  # the layers were built for another
    assert "its layers ask for the windows" in str(selfcheck.disagreement(model, 512))
    model.config.sliding_window = WINDOW

    right = kernel.attend

    def capped(query: Tensor, keys: Tensor, values: Tensor, runs: Runs, *settings: Any) -> Tensor:
        return right(query, keys, values, runs, softcap=0.01)

    monkeypatch.setattr(kernel, "attend", capped)
    assert "its logits in the slots differ by" in str(selfcheck.disagreement(model, 512))

    monkeypatch.setattr(kernel, "attend", None)
    assert selfcheck.disagreement(model, 512) == "it fails in the slots with TypeError"


def test_a_window_that_changes_nothing_keeps_no_model_out_of_the_slots(tmp_path: Path) -> None:
    llama = load_tiny(tmp_path / "llama", "llama").model
    llama.config.sliding_window = 8  # stated, but no part of the architecture
    assert selfcheck.disagreement(llama, 512) is None
    spec = write(tmp_path / "moe", "qwen2-moe-window")
    assert load(replace(spec, context_length=WINDOW), lambda fraction: None).in_slots


def spec_of(folder: Path) -> WorkerSpec:
    return replace(write(folder, "llama"), model_name="odd")


def test_encoders_with_decoders_are_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(LoadFailed, match=r"odd \(t5\) is not a model that continues a text"):
        load(spec, lambda fraction: None)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "own.Config"}}))
    with pytest.raises(LoadFailed, match="odd brings its own Python code"):
        load(spec, lambda fraction: None)
