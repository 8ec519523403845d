"""CUDA graphs: decode steps that a GPU runs by itself, without Python between their kernels.

A small model's kernels take less time than Python takes to start them. A graph is recorded once for a shape,
and then replayed on the buffers it was recorded with. So everything that differs between two steps must come
in by those buffers, and the number of rows and the length that is attended to are rounded up to a few sizes.

Row r of such a step is slot r, so that attention reads the KV cache where it is. Slots that decode nothing
are rows, too: they write to the spare position of their slot, and nobody reads what comes out of them. A
shape that comes for the first time is computed as usual, which is its warm-up; the second time it is
recorded. What cannot be recorded (a model that asks the GPU for a number in the middle of a step) ends the
attempts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from samovar_server.engine.kv_cache import SlotCache
from samovar_server.engine.step import Decoding, NewToken, Together, moved

log = logging.getLogger(__name__)

SHORTEST = 256
"""The shortest length, in positions, that graphs are recorded for."""

Compute = Callable[[Tensor, Decoding], Tensor]
"""From tokens [rows] and where they stand to logits [rows, vocabulary]."""


class Graph(Protocol):
    """A recorded computation."""

    def replay(self) -> None:
        """Do what was recorded, with what the buffers hold now."""


Capture = Callable[[Callable[[], None]], Graph]
"""Records what a function does on its device. Any exception says that it cannot be recorded."""


class CudaGraph:
    """A `Graph` of torch's. The graphs of one `pool` share memory, as they run one after the other."""

    def __init__(self, compute: Callable[[], None], pool: tuple[int, int], stream: torch.cuda.Stream) -> None:
        self._graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):  # and whatever happens, back to the other one
            _rehearse(compute)
            # Other threads of the worker are not to end a capture by what they do.
            with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
                compute()
        torch.cuda.current_stream(stream.device).wait_stream(stream)

    def replay(self) -> None:
        """See Graph."""
        self._graph.replay()


def cuda_capture(device: torch.device) -> Capture:
    """The `Capture` of `device`, a GPU."""
    stream = torch.cuda.Stream(device)
    pool = torch.cuda.graph_pool_handle()
    return lambda compute: CudaGraph(compute, pool, stream)


def _rehearse(compute: Callable[[], None]) -> None:
    """Once more as usual, but with an error where it would wait for the GPU.

    An error in a capture leaves torch's allocator in the middle of it; one here leaves nothing behind.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it does not find every such place
        torch.cuda.set_sync_debug_mode("error")
    try:
        compute()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Shape(NamedTuple):
    """What a graph is recorded for: slots 0 to `rows`, and the first `length` positions of each."""

    rows: int
    length: int


class Graphs:
    """The graphs of one model's decode steps over `cache`, which is `fixed`."""

    def __init__(self, compute: Compute, capture: Capture, cache: SlotCache, device: torch.device) -> None:
        assert cache.fixed, "a graph reads and writes where its buffers were when it was recorded"
        self._compute = compute
        self._capture: Capture | None = capture
        self._cache = cache
        self._device = device
        self._inputs = torch.zeros(3 * cache.slots, dtype=torch.long, device=device)
        self._slots = torch.arange(cache.slots, device=device)
        self._logits: Tensor | None = None
        self._graphs: dict[Shape, Graph | None] = {}

    def run(self, tokens: Seq[NewToken]) -> Tensor | None:
        """The logits [len(tokens), vocabulary] after `tokens`; None when steps cannot be recorded."""
        if self._capture is None:
            return None
        shape = shape_for(tokens, self._cache)
        self._fill(tokens, shape.rows)
        if shape not in self._graphs:
            self._graphs[shape] = None
            self._step(shape)
        else:
            graph = self._graphs[shape] or self._recorded(self._capture, shape)
            if graph is None:
                return None
            graph.replay()
        return self._logits_of([token.slot for token in tokens])

    def _recorded(self, capture: Capture, shape: Shape) -> Graph | None:
        try:
            graph = self._graphs[shape] = capture(lambda: self._step(shape))
        except Exception as error:  # noqa: BLE001 - whatever it is, the step can be computed as usual
            reason = " ".join(str(error).split())[:300]
            log.warning("Decode steps run without CUDA graphs, as recording one failed: %s", reason)
            self._capture = None
            self._graphs.clear()
            return None
        return graph

    def _step(self, shape: Shape) -> None:
        """Compute the logits of the slots in `shape` from the inputs."""
        rows = shape.rows
        tokens, positions, places = self._inputs[: 3 * rows].view(3, rows)
        everyone = Together(positions, 0, rows, shape.length, None)
        decoding = Decoding(self._slots[:rows], places, everyone)
        logits = self._compute(tokens, decoding)
        if self._logits is None:
            self._logits = logits.new_empty(self._cache.slots, logits.shape[-1])
        self._logits[:rows] = logits

    def _fill(self, tokens: Seq[NewToken], rows: int) -> None:
        """Bring `tokens` to where the steps of so many rows read them."""
        ids, positions, places = [0] * rows, [0] * rows, [self._cache.length] * rows
        for token in tokens:
            ids[token.slot] = token.token
            positions[token.slot] = places[token.slot] = token.position
        (numbers,) = moved([ids + positions + places], self._device)
        self._inputs[: 3 * rows].copy_(numbers)

    def _logits_of(self, slots: Seq[int]) -> Tensor:
        """A copy, as the next step writes to the same memory."""
        assert self._logits is not None
        if slots == list(range(len(slots))):
            return self._logits[: len(slots)].clone()
        (index,) = moved([slots], self._device)
        return self._logits[index]


def shape_for(tokens: Seq[NewToken], cache: SlotCache) -> Shape:
    """The smallest shape that holds `tokens`."""
    rows = max(token.slot for token in tokens) + 1
    length = max(token.position for token in tokens) + 1
    return Shape(_doubled(1, rows, cache.slots), _stepped(length, cache.length))


def _doubled(first: int, wanted: int, most: int) -> int:
    while first < wanted:
        first *= 2
    return min(first, most)


def _stepped(wanted: int, most: int) -> int:
    """The first of 256, 384, 512, 768, 1024, ... that is at least `wanted`: at most half is too much."""
    size = SHORTEST
    while size < wanted:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return min(size, most)
