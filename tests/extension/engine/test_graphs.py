"""Decode steps as graphs: the same answers as without, and nothing of others' slots is touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from samovar_server.engine.graphs import Shape, shape_for
from samovar_server.engine.kv_cache import SlotCache
from samovar_server.engine.loading import load
from samovar_server.engine.runner import Runner
from samovar_server.engine.step import NewToken, Piece
from tests.extension.engine.recorder import RecordedGraph
from tests.extension.engine.test_architectures import continued, generated, load_tiny, prompts, random_tokens
from tests.extension.engine.tiny_models import write

pytestmark = pytest.mark.usefixtures("quiet_and_small", "layers_as_on_a_gpu")

SLOTS, CONTEXT = 6, 700


@pytest.fixture
def layers_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own: a product of ours would not be recorded."""
    monkeypatch.setattr("samovar_server.engine.linear.has_threads", lambda: False)


class Recorder:
    """A `Capture` that keeps its graphs, and counts how often one was replayed."""

    def __init__(self) -> None:
        self.graphs: list[RecordedGraph] = []

    def __call__(self, compute: Callable[[], None]) -> RecordedGraph:
        self.graphs.append(RecordedGraph(compute))
        return self.graphs[-1]

    @property
    def replays(self) -> int:
        return sum(graph.replays for graph in self.graphs)


# Lean layers, windows, soft caps, learned positions, and layers that read others' keys and values.
@pytest.mark.parametrize("name", ["llama", "qwen2-window", "gemma2", "gpt2", "gemma3n"])
def test_whole_generations_are_what_generate_gives(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    runner = Runner(load_tiny(tmp_path, name).model, SLOTS, CONTEXT, capture=recorder)
    requests = prompts()
    sequences = continued(runner, requests)
    assert [sequence.output for sequence in sequences] == generated(tmp_path, requests)
    assert recorder.replays > 5
    assert not caplog.records


@pytest.mark.parametrize(("name", "seed"), [("llama", 1), ("llama", 2), ("gemma2", 3), ("gpt2", 4)])
def test_any_schedule_gives_the_logits_and_the_cache_of_steps_without_graphs(
    name: str, seed: int, tmp_path: Path
) -> None:
    model = load_tiny(tmp_path, name).model
    recorder = Recorder()
    plain, graphed = Runner(model, SLOTS, CONTEXT), Runner(model, SLOTS, CONTEXT, capture=recorder)
    rng = random.Random(seed)
    lengths = [0] * SLOTS

    def both(tokens: list[NewToken], pieces: list[Piece]) -> None:
        torch.testing.assert_close(
            graphed.run(tokens, pieces), plain.run(tokens, pieces), rtol=1e-3, atol=1e-3
        )

    for _ in range(60):
        slot = rng.randrange(SLOTS)
        if not any(lengths) or rng.random() < 0.15:  # another prompt takes the slot
            lengths[slot] = rng.choice([1, 30, 255, 380])
            both([], [Piece(slot, random_tokens(rng, lengths[slot]), 0)])
            continue
        held = [slot for slot in range(SLOTS) if lengths[slot]]
        slots = sorted(rng.sample(held, rng.randint(1, len(held))))
        both([NewToken(slot, rng.randrange(3, 250), lengths[slot]) for slot in slots], [])
        for slot in slots:
            lengths[slot] += 1

    assert recorder.replays > 20
    assert len(recorder.graphs) > 2
    for layer, other in zip(graphed.cache.layers, plain.cache.layers, strict=True):
        for slot, length in enumerate(lengths):
            mine, theirs = layer.keys[slot, :, :length], other.keys[slot, :, :length]
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_recorded_runs_without_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only where layers are packed are experts run one after the other, as many as the tokens want.
    monkeypatch.setattr("samovar_server.engine.linear.has_threads", lambda: True)
    recorder = Recorder()
    runner = Runner(load_tiny(tmp_path, "mixtral").model, SLOTS, CONTEXT, capture=recorder)
    requests = prompts()[:3]
    sequences = continued(runner, requests)
    assert [sequence.output for sequence in sequences] == generated(tmp_path, requests)
    assert not recorder.graphs
    (record,) = caplog.records
    assert record.message.startswith(
        "Decode steps run without CUDA graphs, as recording one failed: _unique2"
    )


def test_logits_outlive_the_next_replay(tmp_path: Path) -> None:
    runner = Runner(load_tiny(tmp_path, "llama").model, SLOTS, CONTEXT, capture=Recorder())
    for slot in (0, 1):
        runner.prefill(slot, [5, 6], 0)
    first = [runner.decode([0, 1], [7, 8], [2, 2]) for _ in range(3)]
    kept = first[-1].clone()
    runner.decode([0, 1], [9, 9], [3, 3])
    assert torch.equal(first[-1], kept)


@pytest.mark.parametrize(
    ("slots", "position", "shape"),
    [
        ([0], 0, Shape(1, 256)),
        ([0], 256, Shape(1, 384)),
        ([2], 500, Shape(4, 512)),
        ([0, 4], 600, Shape(6, 700)),
    ],
)
def test_shapes_are_few(slots: list[int], position: int, shape: Shape) -> None:
    cache = SlotCache(1, SLOTS, CONTEXT, fixed=True)
    assert shape_for([NewToken(slot, 1, position) for slot in slots], cache) == shape


def test_lengths_are_never_half_too_much() -> None:
    cache = SlotCache(1, 16, 100_000, fixed=True)
    shapes = {shape_for([NewToken(0, 1, position)], cache) for position in range(100_000)}
    assert len(shapes) < 20
    for position in range(256, 100_000, 7):
        length = shape_for([NewToken(0, 1, position)], cache).length
        assert position < length <= 1.51 * position


def test_a_gpus_buffers_are_taken_whole_at_once(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "llama"), lambda fraction: None)
    runner = Runner(loaded.model, SLOTS, CONTEXT, capture=Recorder())
    runner.prefill(0, [5], 0)
    before = [layer.keys.data_ptr() for layer in runner.cache.layers]
    runner.prefill(SLOTS - 1, random_tokens(random.Random(0), CONTEXT), 0)
    assert [layer.keys.data_ptr() for layer in runner.cache.layers] == before
    assert runner.growth_bytes(None) == 0
