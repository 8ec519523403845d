"""What decoder layers of Llama's layout do beside products and attention, each in one call, in float32.

A row is computed by itself, in an order that its size alone decides: its bits do not depend on the others.
"""

from __future__ import annotations

import functools
import math

import torch
from llvmlite import ir
from torch import Tensor

from samovar_server.engine.kernels import vector_math
from samovar_server.engine.kernels.emit import F32, FLOAT_BYTES, I64, Emitter, integer
from samovar_server.engine.kernels.jit import Call, Kernel, bits_of, new_kernel, vectors
from samovar_server.engine.kv_cache import SlotLayer
from samovar_server.engine.step import Step

SHARED_FROM = 16_384
"""Floats from which on work is shared among threads: with fewer, calling them takes longer."""


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich, 2019) of x [rows, size] by `weight` [size]."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _run(norm_call(x, weight, epsilon, y), x)
    return y


def norm_call(x: Tensor, weight: Tensor, epsilon: float, y: Tensor) -> Call:
    """`rms_norm` into y, for an x whose rows lie side by side."""
    rows, size = x.shape
    pointers = x.data_ptr(), weight.data_ptr(), y.data_ptr()
    return Call(_norm(_lanes(size)), (*pointers, rows, size, bits_of(epsilon)))


def silu_gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, for [rows, 2 * size] with a row's gate first: [rows, size]."""
    gate_up = gate_up.contiguous()
    y = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
    _run(gated_call(gate_up, y), gate_up)
    return y


def gated_call(gate_up: Tensor, y: Tensor) -> Call:
    """`silu_gated` into y, for rows that lie side by side."""
    rows, size = y.shape
    return Call(_gated(_lanes(size)), (gate_up.data_ptr(), y.data_ptr(), rows, size))


def add_call(x: Tensor, more: Tensor) -> Call:
    """x += more, both [rows, size] with rows that lie side by side."""
    rows, size = x.shape
    return Call(_add(_lanes(size)), (x.data_ptr(), more.data_ptr(), rows, size))


def turn_and_keep(
    heads: Tensor, query_heads: int, cos: Tensor, sin: Tensor, scaling: float, step: Step, cache: SlotLayer
) -> Tensor:
    """Apply rotary positions to a step's queries and keys, and write its keys and values to the `cache`.

    heads [tokens, heads, head_dim] are `query_heads` queries, then keys, then as many values; cos and sin
    [tokens, head_dim], a head's halves being rotated against each other (Su et al., RoFormer, 2021). Returns
    the queries, scaled.
    """
    heads, cos, sin = heads.contiguous(), cos.contiguous(), sin.contiguous()
    kv_heads = (heads.shape[1] - query_heads) // 2
    cache.buffers(*heads[:, query_heads:].split(kv_heads, 1))
    assert step.runs.fit(cache.keys), "the cache was reserved for them"
    _run(turn_call(heads, query_heads, cos, sin, scaling, step.runs.places, cache), heads)
    return heads[:, :query_heads]


def turn_call(
    heads: Tensor,
    query_heads: int,
    cos: Tensor,
    sin: Tensor,
    scaling: float,
    places: Tensor,
    cache: SlotLayer,
) -> Call:
    """`turn_and_keep` in place, for tensors whose rows lie side by side; `places` as `Runs` has them."""
    tokens, count, size = heads.shape
    keys, values = cache.keys, cache.values
    assert keys.stride() == values.stride() and keys.stride(2) == size, "positions lie side by side"
    pointers = [tensor.data_ptr() for tensor in (heads, cos, sin, keys, values, places)]
    sizes = (tokens, query_heads, (count - query_heads) // 2, size, *keys.stride()[:2])
    return Call(_turn(_lanes(size // 2)), (*pointers, *sizes, bits_of(scaling)))


def _run(call: Call, like: Tensor) -> None:
    """Carry out a call, by one thread if there are few numbers."""
    call.run(alone=like.numel() < SHARED_FROM)


def _lanes(size: int) -> int:
    """Of the vectors for rows of so many floats."""
    return math.gcd(vectors().lanes, size)


@functools.cache
def _norm(lanes: int) -> Kernel:
    work = new_kernel("norm")
    e = Emitter(work, lanes)
    x0, weight, y0 = (e.address(work.args[0], index) for index in range(3))
    count, size = (e.number(work.args[0], index) for index in (3, 4))
    epsilon = e.load(F32, e.argument(work.args[0], 5))
    squares = e.variable(e.floats)
    with e.tasks(work.args[0], count) as row:
        x, y = (e.at(first, e.product(row, size, FLOAT_BYTES)) for first in (x0, y0))
        e.build.store(e.constant(0), squares)
        with e.loop(size, lanes) as index:
            part = e.load(e.floats, x, e.product(index, FLOAT_BYTES))
            e.build.store(e.multiply_add(part, part, e.get(squares, e.floats)), squares)
        total = vector_math.total(e, e.get(squares, e.floats))
        mean = e.build.fdiv(total, e.build.sitofp(size, F32))
        length = e.unary("llvm.sqrt", e.spread(e.build.fadd(mean, epsilon)))
        with e.loop(size, lanes) as index:
            place = e.product(index, FLOAT_BYTES)
            scaled = e.build.fdiv(e.load(e.floats, x, place), length)
            e.store(e.build.fmul(scaled, e.load(e.floats, weight, place)), y, place)
    e.finish()
    return Kernel(work)


@functools.cache
def _gated(lanes: int) -> Kernel:
    work = new_kernel("gated")
    e = Emitter(work, lanes)
    x0, y0 = (e.address(work.args[0], index) for index in range(2))
    count, size = (e.number(work.args[0], index) for index in (2, 3))
    row_bytes = e.product(size, FLOAT_BYTES)
    with e.tasks(work.args[0], count) as row:
        gates, y = e.at(x0, e.product(row, row_bytes, 2)), e.at(y0, e.product(row, row_bytes))
        with e.loop(size, lanes) as index:
            place = e.product(index, FLOAT_BYTES)
            gate, up = e.load(e.floats, gates, place), e.load(e.floats, gates, row_bytes, place)
            e.store(e.build.fmul(vector_math.silu(e, gate), up), y, place)
    e.finish()
    return Kernel(work)


@functools.cache
def _add(lanes: int) -> Kernel:
    work = new_kernel("add")
    e = Emitter(work, lanes)
    x0, more0 = (e.address(work.args[0], index) for index in range(2))
    count, size = (e.number(work.args[0], index) for index in (2, 3))
    row_bytes = e.product(size, FLOAT_BYTES)
    with e.tasks(work.args[0], count) as row:
        x, more = (e.at(first, e.product(row, row_bytes)) for first in (x0, more0))
        with e.loop(size, lanes) as index:
            place = e.product(index, FLOAT_BYTES)
            e.store(e.build.fadd(e.load(e.floats, x, place), e.load(e.floats, more, place)), x, place)
    e.finish()
    return Kernel(work)


@functools.cache
def _turn(lanes: int) -> Kernel:
    work = new_kernel("turn")
    arguments = work.args[0]
    e = Emitter(work, lanes)
    heads0, cos0, sin0, keys0, values0, places = (e.address(arguments, index) for index in range(6))
    count, queries, kv_heads, size, slot_floats, head_floats = (
        e.number(arguments, index) for index in range(6, 12)
    )
    scaling = e.spread(e.load(F32, e.argument(arguments, 12)))
    head_bytes = e.product(size, FLOAT_BYTES)
    half = e.build.lshr(size, integer(1))
    half_bytes = e.product(half, FLOAT_BYTES)

    def turn(head: ir.Value, to: ir.Value, cos: ir.Value, sin: ir.Value, scale: ir.Value) -> None:
        with e.loop(half, lanes) as index:
            first = e.product(index, FLOAT_BYTES)
            second = e.sum(first, half_bytes)
            a, b = (e.load(e.floats, head, place) for place in (first, second))
            for place, own, other, sign in ((first, a, b, -1), (second, b, a, 1)):
                across = e.build.fmul(e.build.fmul(e.load(e.floats, sin, place), e.constant(sign)), other)
                turned = e.multiply_add(own, e.load(e.floats, cos, place), across)
                e.store(e.build.fmul(turned, scale), to, place)

    with e.tasks(work.args[0], count) as row:
        token = e.at(heads0, e.product(row, e.sum(queries, kv_heads, kv_heads), head_bytes))
        cos, sin = (e.at(table, e.product(row, head_bytes)) for table in (cos0, sin0))
        place = e.product(row, 16)
        slot, position = (e.load(I64, places, place, offset) for offset in (0, 8))
        before = e.sum(e.product(slot, slot_floats), e.product(position, size))
        with e.loop(queries) as index:
            head = e.at(token, e.product(index, head_bytes))
            turn(head, head, cos, sin, scaling)
        with e.loop(kv_heads) as index:
            place = e.product(e.sum(before, e.product(index, head_floats)), FLOAT_BYTES)
            key = e.at(token, e.product(e.sum(queries, index), head_bytes))
            turn(key, e.at(keys0, place), cos, sin, e.constant(1))
            value = e.at(token, e.product(e.sum(queries, kv_heads, index), head_bytes))
            with e.loop(size, lanes) as part:
                offset = e.product(part, FLOAT_BYTES)
                e.store(e.load(e.floats, value, offset), values0, place, offset)
    e.finish()
    return Kernel(work)
