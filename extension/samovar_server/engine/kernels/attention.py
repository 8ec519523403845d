"""Attention of ours on the CPU: new tokens and prompts alike, over the keys and values in the cache.

Two matrix products in tiles (see `tiles`) with a softmax between them. Tokens of a slot that stand one behind
the other are attended with together: their queries of one kv head are the rows of both products. Keys are
turned on the way, so that some of them lie side by side; values lie so already.

A query's result has the same bits whatever it is computed with: a product's sums do not depend on what else
is in a tile, and a softmax's go by the positions of the keys. Keys that a query does not see weigh nothing,
exactly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from llvmlite import ir
from torch import Tensor

from samovar_server.engine.kernels import vector_math
from samovar_server.engine.kernels.emit import F32, FLOAT_BYTES, I32, I64, Emitter, integer
from samovar_server.engine.kernels.jit import Call, Kernel, bits_of, new_kernel, vectors
from samovar_server.engine.kernels.tiles import BFLOAT, FLOAT, HALF, Float, Format, call_tiles, clear, tile
from samovar_server.engine.step import Runs

ROWS = 24
"""Queries that are attended with together at most: tokens, times the heads that share a kv head."""
COLUMNS = 2
"""Vectors of keys in a panel of scores."""
PARTS = 7
"""The kernel's argument that is the number of parts."""
UNLIMITED = 2**30
"""The window of a query that sees all before it."""
STORED: dict[torch.dtype, Format] = {torch.float32: FLOAT, torch.bfloat16: BFLOAT, torch.float16: HALF}
"""How a cache holds its keys and values."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kernel is compiled for.

    `key_dim` and `value_dim` are the sizes of a head; `group` heads share a kv head; `dtype` is the cache's.
    """

    key_dim: int
    value_dim: int
    group: int
    dtype: torch.dtype

    @classmethod
    def of(cls, query: Tensor, keys: Tensor, values: Tensor) -> Self:
        """For tensors as `attend` has them."""
        return cls(keys.shape[3], values.shape[3], query.shape[1] // keys.shape[1], keys.dtype)

    @property
    def lanes(self) -> int:
        """Floats of a vector: as many as the processor has, unless a head's sizes are no multiples."""
        return math.gcd(vectors().lanes, self.key_dim, self.value_dim)

    @property
    def keys(self) -> int:
        """Keys that scores are computed of at a time."""
        return COLUMNS * self.lanes

    @property
    def tokens(self) -> int:
        """How many tokens of a slot are attended with together at most."""
        return max(1, ROWS // self.group)

    @property
    def rows(self) -> int:
        """How many queries that are."""
        return self.tokens * self.group

    def scores(self, positions: int) -> Tensor:
        """Room for the threads' scores of so many positions."""
        # A whole panel more on either side: a window need not begin with one.
        length = (positions // self.keys + 2) * self.keys
        return torch.empty(torch.get_num_threads(), self.rows, length)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    runs: Runs,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """query [tokens, heads, head_dim], scaled, to the like with the values' size, in float32.

    `keys` and `values` are [slots, kv_heads, length, head_dim], and hold those of the tokens already, which
    are where `runs` says. A query sees the keys up to its own, the last `window` of them; `softcap` and
    `sinks` are as in `attention`.
    """
    query = query.float()
    if query.stride(2) != 1:
        query = query.contiguous()
    keys, values = _side_by_side(keys), _side_by_side(values)
    shape = Shape.of(query, keys, values)
    assert runs.fit(keys) and runs.fit(values), "the cache was reserved for them"
    parts = runs.parts(shape.tokens)
    scores = shape.scores(runs.positions)
    out = query.new_empty(*query.shape[:2], shape.value_dim)
    sinks = sinks.float().contiguous() if sinks is not None else None
    call(query, keys, values, parts, scores, out, window, softcap, sinks).run()
    return out


def call(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    parts: Tensor,
    scores: Tensor,
    out: Tensor,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Call:
    """`attend` into `out`, for tensors that lie as the kernel wants them.

    `parts` are the runs' by the shape's tokens, and argument PARTS is how many there are of them; `scores` is
    the shape's, for as many positions as there are.
    """
    arguments = (
        query.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        out.data_ptr(),
        parts.data_ptr(),
        scores.data_ptr(),
        sinks.data_ptr() if sinks is not None else 0,
        len(parts),
        keys.shape[1],
        *query.stride()[:2],
        *keys.stride()[:2],
        *values.stride()[:2],
        scores.shape[2],
        window if window is not None else UNLIMITED,
        bits_of(softcap or 0.0),
    )
    return Call(attention(Shape.of(query, keys, values)), arguments)


def _side_by_side(states: Tensor) -> Tensor:
    """Keys or values whose positions lie side by side; those of a cache do, computed ones may not."""
    return states if states.stride()[2:] == (states.shape[3], 1) else states.contiguous()


@functools.cache
def attention(shape: Shape) -> Kernel:
    """The kernel, compiled. `attend` has its arguments, and distances in elements."""
    work = new_kernel("attention")
    _Attention(shape, work).write()
    return Kernel(work)


class _Values(Format):
    """Values of a head, position after position, in the cache's dtype."""

    whole = False

    def __init__(self, dtype: torch.dtype, size: int) -> None:
        self.dtype = dtype
        self.pitch = size * dtype.itemsize

    def offset(self, e: Emitter, panel: int, features: ir.Value) -> ir.Value:
        """See Format."""
        return e.product(features, self.pitch)

    def read(self, e: Emitter, place: ir.Value, column: int) -> ir.Value:
        """See Format."""
        return STORED[self.dtype].read(e, place, column)


class _Keys(Float):
    """Keys of a panel, turned."""

    whole = False


@dataclass(frozen=True, slots=True)
class _Part:
    """What is attended with together: rows are tokens times heads, all of one kv head."""

    first_row: ir.Value
    rows: ir.Value
    tokens: ir.Value
    position: ir.Value
    kv_head: ir.Value
    scores: ir.Value
    first_key: ir.Value
    """The first key of the first panel that any of them sees."""
    last_key: ir.Value


class _Attention:
    """The function of one kernel."""

    def __init__(self, shape: Shape, work: ir.Function) -> None:
        self.shape = shape
        self.work = work
        lanes = shape.lanes
        columns = COLUMNS if shape.value_dim % (COLUMNS * lanes) == 0 else 1
        self.value_panel = columns * lanes
        most = min(vectors().rows, shape.rows)
        stored = _Values(shape.dtype, shape.value_dim)
        self.fetch = shape.keys * stored.pitch // shape.key_dim // 4
        """Bytes of values that scores fetch with each feature: a quarter of their keys', as more would be in
        the way of the keys."""
        tiles = {
            name: {rows: tile(work.module, lanes, wide, rows, of, fetch, name) for rows in range(1, most + 1)}
            for name, wide, of, fetch in (
                ("scores", COLUMNS, _Keys(), self.fetch),
                ("values", columns, stored, 0),
            )
        }
        self.score_tiles, self.value_tiles = tiles["scores"], tiles["values"]

    def write(self) -> None:
        """Write `work`, whose tasks are pairs of tokens and kv head."""
        shape = self.shape
        arguments, thread, _ = self.work.args
        e = self.e = Emitter(self.work, shape.lanes)
        addresses = [e.address(arguments, index) for index in range(7)]
        self.query, self.keys, self.values, self.out, parts, scores, self.sinks = addresses
        numbers = [e.number(arguments, index) for index in range(7, 17)]
        count, kv_heads, self.token_floats, self.head_floats = numbers[:4]
        self.strides = [e.product(number, shape.dtype.itemsize) for number in numbers[4:8]]
        self.length, self.window = numbers[8:]
        self.softcap = e.load(F32, e.argument(arguments, 17))
        self.heads = e.product(kv_heads, shape.group)
        self.rows = e.variable(ir.ArrayType(F32, shape.rows * shape.key_dim))
        self.turned = e.variable(ir.ArrayType(F32, shape.keys * shape.key_dim))
        self.sums = e.variable(ir.ArrayType(F32, shape.rows * max(shape.keys, self.value_panel)))
        self.shares = e.variable(ir.ArrayType(F32, shape.rows))
        own = e.at(scores, e.product(thread, self.length, shape.rows * FLOAT_BYTES))
        with e.tasks(arguments, e.product(count, kv_heads)) as index:
            row = e.at(parts, e.product(e.build.udiv(index, kv_heads), 4 * 8))
            first_row, tokens, slot, position = (e.load(I64, row, 8 * place) for place in range(4))
            kv_head = e.build.urem(index, kv_heads)
            first_seen = e.greatest_int(integer(0), e.build.sub(e.sum(position, 1), self.window))
            part = _Part(
                first_row=first_row,
                rows=e.product(tokens, shape.group),
                tokens=tokens,
                position=position,
                kv_head=kv_head,
                scores=own,
                first_key=e.build.sub(first_seen, e.build.urem(first_seen, integer(shape.keys))),
                last_key=e.sum(position, tokens, -1),
            )
            keys, values = (
                e.at(buffer, e.product(slot, self.strides[at]), e.product(kv_head, self.strides[at + 1]))
                for buffer, at in ((self.keys, 0), (self.values, 2))
            )
            self._gather(part)
            self._score(part, keys, values)
            self._weigh(part)
            self._add_up(part, values)
        e.finish()

    @contextmanager
    def _each_row(self, part: _Part) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
        """What is written inside runs for each row, its token, and its head."""
        e, group = self.e, integer(self.shape.group)
        with e.loop(part.rows) as row:
            token, within = e.build.udiv(row, group), e.build.urem(row, group)
            yield row, token, e.sum(e.product(part.kv_head, group), within)

    def _gather(self, part: _Part) -> None:
        """Bring the queries to where they lie as tiles want them."""
        e = self.e
        size = self.shape.key_dim * FLOAT_BYTES
        with self._each_row(part) as (row, token, head):
            place = e.sum(
                e.product(e.sum(part.first_row, token), self.token_floats), e.product(head, self.head_floats)
            )
            query = e.at(self.query, e.product(place, FLOAT_BYTES))
            own = e.at(self.rows, e.product(row, size))
            for at in range(0, size, self.shape.lanes * FLOAT_BYTES):
                e.store(e.load(e.floats, query, at), own, at)

    def _score(self, part: _Part, keys: ir.Value, values: ir.Value) -> None:
        """Scores of all keys from the first to the last, and of some behind, by panels.

        Meanwhile some of the values are fetched.
        """
        e, shape = self.e, self.shape
        panel_bytes = shape.keys * FLOAT_BYTES
        with e.loop(e.sum(part.last_key, 1), shape.keys, part.first_key) as first:
            self._turn(keys, first, part.last_key)
            clear(e, self.sums, part.rows, panel_bytes)
            stride = integer(shape.key_dim * FLOAT_BYTES)
            features = integer(shape.key_dim)
            ahead = e.at(values, e.product(first, shape.value_dim * shape.dtype.itemsize))
            inputs = (self.rows, stride, self.turned, self.sums, panel_bytes, features, ahead, self.fetch)
            call_tiles(e, self.score_tiles, part.rows, *inputs)
            before = e.product(e.build.sub(first, part.first_key), FLOAT_BYTES)
            with e.loop(part.rows) as row:
                own = e.at(part.scores, e.product(row, self.length, FLOAT_BYTES), before)
                for at in range(0, panel_bytes, shape.lanes * FLOAT_BYTES):
                    e.store(e.load(e.floats, self.sums, e.product(row, panel_bytes), at), own, at)

    def _turn(self, keys: ir.Value, first: ir.Value, last: ir.Value) -> None:
        """A panel of keys from `first` on, feature after feature; the last one in the place of any behind."""
        e, shape = self.e, self.shape
        stored = STORED[shape.dtype]
        pitch = shape.key_dim * shape.dtype.itemsize
        for column in range(COLUMNS):
            numbers = [e.sum(first, column * shape.lanes + lane) for lane in range(shape.lanes)]
            rows = [e.at(keys, e.product(e.least(number, last), pitch)) for number in numbers]
            with e.loop(integer(shape.key_dim), shape.lanes) as feature:
                offset = e.product(feature, shape.dtype.itemsize)
                vectors_ = [stored.read(e, e.at(row, offset), 0) for row in rows]
                for ahead, vector in enumerate(vector_math.transposed(e, vectors_)):
                    place = e.product(e.sum(feature, ahead), shape.keys * FLOAT_BYTES)
                    e.store(vector, self.turned, place, column * shape.lanes * FLOAT_BYTES)

    def _weigh(self, part: _Part) -> None:
        """Scores to weights that are not yet divided by their sum, whose inverse goes into the shares."""
        e, lanes = self.e, self.shape.lanes
        count = e.sum(part.last_key, 1, self.shape.keys - 1)
        count = e.build.sub(count, part.first_key)
        count = e.build.sub(count, e.build.urem(count, integer(self.shape.keys)))
        steps = ir.Constant(e.ints, list(range(lanes)))
        hidden = e.constant(-math.inf)
        zero = ir.Constant(F32, 0.0)
        has_cap = e.build.fcmp_ordered("!=", self.softcap, zero)
        has_sinks = e.build.icmp_unsigned("!=", e.build.ptrtoint(self.sinks, I64), integer(0))
        greatest, total = e.variable(e.floats), e.variable(e.floats)
        peak, sum_ = e.variable(F32), e.variable(F32)
        with self._each_row(part) as (row, token, head):
            own = e.at(part.scores, e.product(row, self.length, FLOAT_BYTES))
            newest = e.sum(part.position, token)
            oldest = e.build.sub(e.sum(newest, 1), self.window)
            bounds = [e.spread(e.build.trunc(bound, I32)) for bound in (newest, oldest)]
            e.build.store(hidden, greatest)
            with e.loop(count, lanes) as key:
                place = e.at(own, e.product(key, FLOAT_BYTES))
                first = e.build.trunc(e.sum(part.first_key, key), I32)
                numbers = e.build.add(e.spread(first), steps)
                score = e.load(e.floats, place)
                with e.build.if_then(has_cap):
                    cap = e.spread(self.softcap)
                    e.store(e.build.fmul(vector_math.tanh(e, e.build.fdiv(score, cap)), cap), place)
                seen = e.build.and_(
                    e.build.icmp_signed("<=", numbers, bounds[0]),
                    e.build.icmp_signed(">=", numbers, bounds[1]),
                )
                score = e.build.select(seen, e.load(e.floats, place), hidden)
                e.store(score, place)
                e.build.store(e.greatest_of(e.get(greatest, e.floats), score), greatest)
            e.build.store(vector_math.greatest(e, e.get(greatest, e.floats)), peak)
            sink_place = e.at(self.sinks, e.product(head, FLOAT_BYTES))
            with e.build.if_then(has_sinks):
                both = e.greatest_of(e.spread(e.get(peak, F32)), e.spread(e.load(F32, sink_place)))
                e.build.store(e.build.extract_element(both, ir.Constant(I32, 0)), peak)
            most = e.spread(e.get(peak, F32))
            e.build.store(e.constant(0), total)
            with e.loop(count, lanes) as key:
                place = e.at(own, e.product(key, FLOAT_BYTES))
                weight = vector_math.exp(e, e.build.fsub(e.load(e.floats, place), most))
                e.store(weight, place)
                e.build.store(e.build.fadd(e.get(total, e.floats), weight), total)
            e.build.store(vector_math.total(e, e.get(total, e.floats)), sum_)
            with e.build.if_then(has_sinks):
                sink = vector_math.exp(e, e.build.fsub(e.spread(e.load(F32, sink_place)), most))
                sink = e.build.extract_element(sink, ir.Constant(I32, 0))
                e.build.store(e.build.fadd(e.get(sum_, F32), sink), sum_)
            share = e.build.fdiv(ir.Constant(F32, 1.0), e.get(sum_, F32))
            e.store(share, self.shares, e.product(row, FLOAT_BYTES))

    def _add_up(self, part: _Part, values: ir.Value) -> None:
        """The weighted sums of values, by panels of a head."""
        e, shape = self.e, self.shape
        panel_bytes = self.value_panel * FLOAT_BYTES
        seen = e.at(values, e.product(part.first_key, shape.value_dim * shape.dtype.itemsize))
        keys = e.build.sub(e.sum(part.last_key, 1), part.first_key)
        stride = e.product(self.length, FLOAT_BYTES)
        with e.loop(integer(shape.value_dim), self.value_panel) as first:
            clear(e, self.sums, part.rows, panel_bytes)
            panel = e.at(seen, e.product(first, shape.dtype.itemsize))
            inputs = (part.scores, stride, panel, self.sums, panel_bytes, keys, panel, 0)
            call_tiles(e, self.value_tiles, part.rows, *inputs)
            with self._each_row(part) as (row, token, head):
                share = e.spread(e.load(F32, self.shares, e.product(row, FLOAT_BYTES)))
                place = e.product(e.sum(part.first_row, token), self.heads)
                out = e.at(self.out, e.product(e.sum(place, head), shape.value_dim * FLOAT_BYTES))
                for at in range(0, panel_bytes, shape.lanes * FLOAT_BYTES):
                    value = e.load(e.floats, self.sums, e.product(row, panel_bytes), at)
                    e.store(e.build.fmul(value, share), out, e.product(first, FLOAT_BYTES), at)
