"""All lean layers of a model as one script: a step of few tokens is one call from Python, and not hundreds.

A script computes in buffers of its own what the layers would compute one by one, by the same kernels and so
to the same bits. There is one for each number of tokens, written when it is first needed and kept until the
KV cache grows.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from samovar_server.engine.kernels import attention
from samovar_server.engine.kernels.jit import Call
from samovar_server.engine.kernels.script import Script
from samovar_server.engine.kv_cache import SlotCache, SlotLayer
from samovar_server.engine.step import Step

MOST_TOKENS = 64
"""Steps of more take so long that Python's part in them does not matter."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the layers of a stack have in common: `inner` is the MLP's size."""

    width: int
    query_heads: int
    kv_heads: int
    head_dim: int
    inner: int


@dataclass(frozen=True, slots=True)
class Workspace:
    """Buffers that all layers use one after the other, a row for each token.

    `x` is what they add to; `query` is a part of `heads`.
    """

    x: Tensor
    normed: Tensor
    heads: Tensor
    query: Tensor
    attended: Tensor
    added: Tensor
    gate_up: Tensor
    gated: Tensor
    cos: Tensor
    sin: Tensor
    places: Tensor
    parts: Tensor

    @classmethod
    def of(cls, sizes: Sizes) -> Self:
        """That for MOST_TOKENS."""

        def rows(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(MOST_TOKENS, *size, dtype=dtype)

        heads = rows(sizes.query_heads + 2 * sizes.kv_heads, sizes.head_dim)
        return cls(
            x=rows(sizes.width),
            normed=rows(sizes.width),
            heads=heads,
            query=heads[:, : sizes.query_heads],
            attended=rows(sizes.query_heads, sizes.head_dim),
            added=rows(sizes.width),
            gate_up=rows(2 * sizes.inner),
            gated=rows(sizes.inner),
            cos=rows(sizes.head_dim),
            sin=rows(sizes.head_dim),
            places=rows(2, dtype=torch.int64),
            parts=rows(4, dtype=torch.int64),
        )

    def first(self, tokens: int) -> Workspace:
        """The first rows of it."""
        return replace(self, **{name: getattr(self, name)[:tokens] for name in self.__slots__})


class Layer(Protocol):
    """What a stack asks of a layer."""

    def calls(self, workspace: Workspace, scores: Tensor, cache: SlotLayer) -> Sequence[Call]:
        """What it computes, `workspace.x` being changed in place. `scores` are attention's."""


class Stack:
    """The layers of a model, from the first to the last."""

    def __init__(self, sizes: Sizes, layers: Sequence[Layer], windows: set[int | None]) -> None:
        """`windows` are the sliding windows of the layers."""
        self._layers = layers
        self._windows = windows
        self._workspace = Workspace.of(sizes)
        self._scores = torch.empty(0)
        self._scripts: dict[int, tuple[Workspace, Script]] = {}
        self._cache: weakref.ref[SlotCache] | None = None
        self._written_for: tuple[int, ...] = ()

    def run(self, x: Tensor, step: Step, positions: tuple[Tensor, Tensor], cache: SlotCache) -> bool:
        """Change x [tokens, width] as the layers do, and keep keys and values. `positions` are cosines and
        sines [1, tokens, head_dim].

        False, with nothing done, where the step is too long or the cache was never written to.
        """
        tokens = len(x)
        if tokens > MOST_TOKENS or not cache.layers[-1].is_initialized:
            return False
        runs, kept = step.runs, cache.layers[0]
        assert runs.fit(kept.keys), "the cache was reserved for them"
        shape = attention.Shape.of(self._workspace.query, kept.keys, kept.values)
        of, script = self._script(tokens, cache, shape)
        parts = runs.parts(shape.tokens)
        of.x.copy_(x)
        of.cos.copy_(positions[0][0])
        of.sin.copy_(positions[1][0])
        of.places.copy_(runs.places)
        of.parts[: len(parts)].copy_(parts)
        script.set(attention.attention(shape), attention.PARTS, len(parts))
        script.run()
        x.copy_(of.x)
        step.windows |= self._windows
        return True

    def _script(self, tokens: int, cache: SlotCache, shape: attention.Shape) -> tuple[Workspace, Script]:
        """The script for so many tokens, and the rows that it works in."""
        # The buffers of the cache are where they were as long as they have not grown.
        now = (cache.rows, cache.length, torch.get_num_threads())
        if self._cache is None or self._cache() is not cache or now != self._written_for:
            self._scripts.clear()
            self._scores = shape.scores(cache.length)
            self._cache, self._written_for = weakref.ref(cache), now
        if tokens not in self._scripts:
            of = self._workspace.first(tokens)
            calls = [
                call
                for layer, kept in zip(self._layers, cache.layers, strict=True)
                for call in layer.calls(of, self._scores, kept)
            ]
            self._scripts[tokens] = of, Script(calls)
        return self._scripts[tokens]
