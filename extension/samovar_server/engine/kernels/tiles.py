"""Tiles: what matrix products of ours are made of.

A few rows by a panel, that is by some vectors of outputs side by side, whose sums stay in registers while
the features pass by one after the other (Goto and Van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", 2008). An output is the sum of its products in the order of the features, rounded after
each: its bits do not depend on what else is in the tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from llvmlite import ir

from samovar_server.engine.kernels.emit import (
    BF16_BYTES,
    F16,
    F16_BYTES,
    F32,
    FLOAT_BYTES,
    I16,
    I64,
    LINE,
    POINTER,
    VOID,
    Emitter,
    integer,
)

UNROLLED = 4
"""Features that are written out for each turn of a loop."""
FEW_ROWS = 4
"""With at most so many rows a tile takes weights as they are stored, and UNROLLED features at a time. With
more, where unpacking them pays, it takes one: LLVM would read the inputs of several ahead, and put what
registers cannot hold back into memory."""

Body = Callable[[ir.Value, Sequence[ir.Value]], None]
"""What is done with a feature's number and its weights, vectors of a panel's width."""


class Format:
    """How the weights of a panel are stored: `bits` for each, all included."""

    bits: int
    whole = True
    """Whether features come in multiples of UNROLLED."""

    def offset(self, e: Emitter, panel: int, features: ir.Value) -> ir.Value:
        """Bytes that so many features of a panel take."""
        return e.product(features, panel * self.bits // 8)

    def each(
        self,
        e: Emitter,
        columns: int,
        source: ir.Value,
        features: ir.Value,
        body: Body,
        unrolled: int = UNROLLED,
    ) -> None:
        """Write `body` for each of the features at `source`, with `columns` vectors of weights."""
        full = features
        if not self.whole:
            full = e.build.sub(features, e.build.srem(features, integer(unrolled)))
        with e.loop(full, unrolled) as first:
            for ahead in range(unrolled):
                self.one(e, columns, source, e.sum(first, ahead), body)
        if not self.whole:
            with e.loop(features, start=full) as feature:
                self.one(e, columns, source, feature, body)

    def one(self, e: Emitter, columns: int, source: ir.Value, feature: ir.Value, body: Body) -> None:
        """Write `body` for a feature."""
        place = e.at(source, self.offset(e, columns * e.lanes, feature))
        body(feature, [self.read(e, place, column) for column in range(columns)])

    def read(self, e: Emitter, place: ir.Value, column: int) -> ir.Value:
        """Vector `column` of a feature's weights at `place`."""
        raise NotImplementedError


class Float(Format):
    """float32."""

    bits = 32

    def read(self, e: Emitter, place: ir.Value, column: int) -> ir.Value:
        """See Format."""
        return e.load(e.floats, place, column * e.lanes * FLOAT_BYTES)


class BFloat(Format):
    """bfloat16, which becomes the float32 that it is the upper half of."""

    bits = 16

    def read(self, e: Emitter, place: ir.Value, column: int) -> ir.Value:
        """See Format."""
        return e.from_bf16(e.load(ir.VectorType(I16, e.lanes), place, column * e.lanes * BF16_BYTES))


class Half(Format):
    """float16."""

    bits = 16

    def read(self, e: Emitter, place: ir.Value, column: int) -> ir.Value:
        """See Format."""
        halves = e.load(ir.VectorType(F16, e.lanes), place, column * e.lanes * F16_BYTES)
        return e.build.fpext(halves, e.floats)


FLOAT, BFLOAT, HALF = Float(), BFloat(), Half()


def function(module: ir.Module, name: str, kinds: Sequence[ir.Type]) -> ir.Function:
    """A function of these kinds of arguments that is not inlined, to be written."""
    new = ir.Function(module, ir.FunctionType(VOID, kinds), name)
    new.linkage = "internal"
    new.attributes.add("noinline")
    return new


def tile(
    module: ir.Module, lanes: int, columns: int, rows: int, stored: Format, fetch: int, name: str
) -> ir.Function:
    """tile(x, bytes from row to row, weights, sums [rows, panel], features, ahead) adds to the sums.

    The weights are `stored` so. For each feature so many bytes of what comes next, from `ahead` on, are to
    `fetch` meanwhile: a processor by itself does not begin with it before it is read.
    """
    new = function(module, f"{name}_{rows}", [POINTER, I64, POINTER, POINTER, I64, POINTER])
    x, stride, weights, sums, features, ahead = new.args
    e = Emitter(new, lanes)
    starts = [e.at(x, e.product(stride, row)) for row in range(rows)]
    places = [vector * lanes * FLOAT_BYTES for vector in range(rows * columns)]
    totals = [e.variable(e.floats, e.load(e.floats, sums, place)) for place in places]
    unrolled = UNROLLED if rows <= FEW_ROWS else 1
    turn = itertools.cycle(range(unrolled))

    def add(feature: ir.Value, vectors: Sequence[ir.Value]) -> None:
        if next(turn) == 0:
            for line in range(0, unrolled * fetch, LINE):
                e.prefetch(e.at(ahead, e.product(feature, fetch), line))
        for row, start in enumerate(starts):
            value = e.spread(e.load(F32, start, e.product(feature, FLOAT_BYTES), align=FLOAT_BYTES))
            for total, vector in zip(totals[row * columns :], vectors, strict=False):
                e.build.store(e.multiply_add(value, vector, e.get(total, e.floats)), total)

    stored.each(e, columns, weights, features, add, unrolled)
    for total, place in zip(totals, places, strict=True):
        e.store(e.get(total, e.floats), sums, place)
    e.finish()
    return new


def clear(e: Emitter, sums: ir.Value, rows: ir.Value, row_bytes: int) -> None:
    """Begin the sums [rows, panel] with zeros."""
    with e.loop(rows) as row:
        for vector in range(0, row_bytes, e.lanes * FLOAT_BYTES):
            e.store(e.constant(0), sums, e.product(row, row_bytes), vector)


def call_tiles(
    e: Emitter,
    tiles: dict[int, ir.Function],
    rows: ir.Value,
    x: ir.Value,
    stride: ir.Value,
    weights: ir.Value,
    sums: ir.Value,
    sums_stride: int,
    features: ir.Value,
    ahead: ir.Value,
    fetch: int,
) -> None:
    """Cover so many `rows`, whose sums lie `sums_stride` bytes apart, with `tiles` by their own rows.

    All are about equal: one of very few rows would wait for its sums more than it computes. Each is to
    `fetch` on where the one before ends.
    """
    most = max(tiles)
    parts = e.build.udiv(e.sum(rows, most - 1), integer(most))
    fewest, with_more = e.build.udiv(rows, parts), e.build.urem(rows, parts)
    with e.loop(parts) as part:
        row = e.sum(e.product(part, fewest), e.least(part, with_more))
        own_rows = e.sum(fewest, e.build.zext(e.build.icmp_signed("<", part, with_more), I64))
        inputs, own = e.at(x, e.product(row, stride)), e.at(sums, e.product(row, sums_stride))
        further = e.at(ahead, e.product(part, features, fetch))
        for count, function_ in tiles.items():
            with e.build.if_then(e.build.icmp_signed("==", own_rows, integer(count))):
                e.build.call(function_, [inputs, stride, weights, own, features, further])
