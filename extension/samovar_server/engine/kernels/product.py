"""A matrix product of ours for decoding and for prompts: rows of floats by weights of several formats.

Weights lie in panels: so many outputs side by side (see `jit.Vectors`), feature after feature, and become
floats on the way. A few rows take weights as they are stored; for more, a stretch of a panel is unpacked
into the cache once for many of them. Tiles compute them (see `tiles`), so a row has the same bits among any
others, which no library promises.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from llvmlite import ir

from samovar_server.engine.kernels.emit import (
    BF16_BYTES,
    F32,
    FLOAT_BYTES,
    I8,
    I16,
    I64,
    POINTER,
    Emitter,
    integer,
)
from samovar_server.engine.kernels.jit import Kernel, Vectors, new_kernel
from samovar_server.engine.kernels.tiles import (
    FEW_ROWS,
    FLOAT,
    UNROLLED,
    Body,
    Format,
    call_tiles,
    clear,
    function,
    tile,
)

GROUP = 32
"""Weights of int4 that share a step and a middle; as in Q4_1 of GGUF, whose blocks come out unchanged."""
STRETCH = 256
"""Features of a panel that are worked on at a time: unpacked they fit into the nearest cache."""
BLOCK = 96
"""Rows for which a stretch is unpacked once."""
SHARES = 8
"""Into how many parts for each thread the panels are cut."""


class Int8(Format):
    """Whole numbers with a sign. An output's scale comes into its sum at the end."""

    bits = 8

    def read(self, e: Emitter, place: ir.Value, column: int) -> ir.Value:
        """See Format."""
        return e.from_bytes(e.load(ir.VectorType(I8, e.lanes), place, column * e.lanes))


class Int4(Format):
    """Levels 0 to 15, whose step and middle (level 8) each group of features has in bfloat16, first.

    Then come the levels: of two features in each byte, the first in its lower half.
    """

    bits = 5

    def each(
        self,
        e: Emitter,
        columns: int,
        source: ir.Value,
        features: ir.Value,
        body: Body,
        unrolled: int = UNROLLED,
    ) -> None:
        """See Format. Features are a multiple of GROUP, and two of them share a byte."""
        assert unrolled % 2 == 0
        panel = columns * e.lanes
        halves, octets = ir.VectorType(I16, e.lanes), ir.VectorType(I8, e.lanes)
        with e.loop(features, GROUP) as first:
            group = e.at(source, self.offset(e, panel, first))
            scales = [
                e.from_bf16(e.load(halves, group, place))
                for place in range(0, 2 * panel * BF16_BYTES, e.lanes * BF16_BYTES)
            ]
            steps, middles = scales[:columns], scales[columns:]
            lows = [
                e.multiply_add(step, e.constant(-8), middle)
                for step, middle in zip(steps, middles, strict=True)
            ]
            levels = e.at(group, 2 * panel * BF16_BYTES)
            with e.loop(integer(GROUP), unrolled) as inner:
                for ahead in range(0, unrolled, 2):
                    row = e.at(levels, e.product(e.build.lshr(e.sum(inner, ahead), integer(1)), panel))
                    pairs = [e.build.zext(e.load(octets, row, at), e.ints) for at in range(0, panel, e.lanes)]
                    lower = [e.build.and_(pair, e.whole(15)) for pair in pairs]
                    upper = [e.build.lshr(pair, e.whole(4)) for pair in pairs]
                    for more, half in enumerate((lower, upper)):
                        weights = [
                            e.multiply_add(e.build.sitofp(level, e.floats), step, low)
                            for level, step, low in zip(half, steps, lows, strict=True)
                        ]
                        body(e.sum(first, inner, ahead + more), weights)


INT8, INT4 = Int8(), Int4()


@functools.cache
def product(stored: Format, shape: Vectors) -> Kernel:
    """The kernel for weights of this format, compiled. Its arguments are, addresses and then sizes:

    x [rows, features], the panels, an output's scale and bias [panels * shape.panel], y [rows, outputs];
    rows, features, outputs, and the floats from one row of x to the next. All but the panels are float32.
    """
    work = new_kernel("product")
    _Product(stored, shape, work).write()
    return Kernel(work)


class _Product:
    """The functions of one kernel."""

    def __init__(self, stored: Format, shape: Vectors, work: ir.Function) -> None:
        self.stored = stored
        self.shape = shape
        self.work = work
        self.row_bytes = shape.panel * FLOAT_BYTES
        """Of a tile's row of sums."""
        self.fetch = shape.panel * stored.bits // 8
        """Bytes of a feature in a panel: while tiles compute a stretch, all of the next one is fetched."""
        self.vectors = range(0, self.row_bytes, shape.lanes * FLOAT_BYTES)
        """The bytes at which a panel's vectors begin in it."""
        self.floats = self._tiles(shape.rows, FLOAT, "floats")
        if stored is not FLOAT:
            self.unpack = self._unpack()
            self.few = self._tiles(min(FEW_ROWS, shape.rows), stored, "few")

    def _tiles(self, most: int, stored: Format, name: str) -> dict[int, ir.Function]:
        lanes, columns = self.shape.lanes, self.shape.columns
        return {
            rows: tile(self.work.module, lanes, columns, rows, stored, self.fetch, name)
            for rows in range(1, most + 1)
        }

    def _unpack(self) -> ir.Function:
        """unpack(weights, floats [features, panel], features)."""
        unpack = function(self.work.module, "unpack", [POINTER, POINTER, I64])
        weights, floats, features = unpack.args
        e = Emitter(unpack, self.shape.lanes)

        def keep(feature: ir.Value, vectors: Sequence[ir.Value]) -> None:
            row = e.at(floats, e.product(feature, self.row_bytes))
            for place, vector in zip(self.vectors, vectors, strict=True):
                e.store(vector, row, place)

        self.stored.each(e, self.shape.columns, weights, features, keep)
        e.finish()
        return unpack

    def write(self) -> None:
        """Write `work`, whose tasks are shares of the panels, for one block of rows after the other."""
        arguments, _, threads = self.work.args
        e = Emitter(self.work, self.shape.lanes)
        x0, weights0, scale, bias, y = (e.address(arguments, index) for index in range(5))
        count, all_features, outputs, row_floats = (e.number(arguments, index) for index in range(5, 9))
        stride = e.product(row_floats, FLOAT_BYTES)
        panel = integer(self.shape.panel)
        panels = e.build.udiv(e.sum(outputs, self.shape.panel - 1), panel)
        blocks = e.build.udiv(e.sum(count, BLOCK - 1), integer(BLOCK))
        shares = e.least(panels, e.product(threads, SHARES))
        sums = e.variable(ir.ArrayType(F32, BLOCK * self.shape.panel))
        floats = e.variable(ir.ArrayType(F32, STRETCH * self.shape.panel))
        with e.tasks(arguments, e.product(blocks, shares)) as task:
            share = e.build.urem(task, shares)
            first, last = (e.build.udiv(e.product(panels, part), shares) for part in (share, e.sum(share, 1)))
            done = e.product(e.build.udiv(task, shares), BLOCK)
            rows = e.least(integer(BLOCK), e.build.sub(count, done))
            x = e.at(x0, e.product(done, stride))
            with e.loop(last, start=first) as index:
                before = e.product(index, all_features)
                whole = e.at(weights0, self.stored.offset(e, self.shape.panel, before))
                clear(e, sums, rows, self.row_bytes)
                with e.loop(all_features, STRETCH) as feature:
                    features = e.least(integer(STRETCH), e.build.sub(all_features, feature))
                    weights = e.at(whole, self.stored.offset(e, self.shape.panel, feature))
                    inputs = e.at(x, e.product(feature, FLOAT_BYTES))
                    ahead = e.at(weights, self.stored.offset(e, self.shape.panel, features))
                    self._multiply(e, inputs, stride, weights, floats, sums, rows, features, ahead)
                output = e.product(index, panel)
                self._scale(e, sums, rows, output, scale, bias)
                first_y = e.at(y, e.product(e.sum(e.product(done, outputs), output), FLOAT_BYTES))
                left = e.least(panel, e.build.sub(outputs, output))
                self._copy(e, sums, rows, left, first_y, e.product(outputs, FLOAT_BYTES))
        e.finish()

    def _multiply(
        self,
        e: Emitter,
        x: ir.Value,
        stride: ir.Value,
        weights: ir.Value,
        floats: ir.Value,
        sums: ir.Value,
        rows: ir.Value,
        features: ir.Value,
        ahead: ir.Value,
    ) -> None:
        """A block of rows by a stretch of a panel, tile by tile, while the next one is fetched."""

        def tiles(functions: dict[int, ir.Function], source: ir.Value) -> None:
            inputs = (x, stride, source, sums, self.row_bytes, features, ahead, self.fetch)
            call_tiles(e, functions, rows, *inputs)

        if self.stored is FLOAT:
            tiles(self.floats, weights)
            return
        few = e.build.icmp_signed("<=", rows, integer(max(self.few)))
        with e.build.if_else(few) as (then, otherwise):
            with then:
                tiles(self.few, weights)
            with otherwise:
                e.build.call(self.unpack, [weights, floats, features])
                tiles(self.floats, floats)

    def _scale(
        self, e: Emitter, sums: ir.Value, rows: ir.Value, output: ir.Value, scale: ir.Value, bias: ir.Value
    ) -> None:
        """Multiply the sums of a panel, which begins with `output`, by its scales, and add its biases."""
        place = e.product(output, FLOAT_BYTES)
        scales, biases = (
            [e.load(e.floats, of, place, vector) for vector in self.vectors] for of in (scale, bias)
        )
        with e.loop(rows) as row:
            own = e.at(sums, e.product(row, self.row_bytes))
            for vector, *terms in zip(self.vectors, scales, biases, strict=True):
                e.store(e.multiply_add(e.load(e.floats, own, vector), *terms), own, vector)

    def _copy(
        self, e: Emitter, sums: ir.Value, rows: ir.Value, left: ir.Value, y: ir.Value, stride: ir.Value
    ) -> None:
        """Write the sums of a panel to y: all, or the `left` that there are of the last."""
        is_whole = e.build.icmp_signed("==", left, integer(self.shape.panel))
        with e.loop(rows) as row:
            own = e.at(sums, e.product(row, self.row_bytes))
            to = e.at(y, e.product(row, stride))
            with e.build.if_else(is_whole) as (whole, part):
                with whole:
                    for vector in self.vectors:
                        e.store(e.load(e.floats, own, vector), to, vector)
                with part, e.loop(left) as column:
                    offset = e.product(column, FLOAT_BYTES)
                    e.store(e.load(F32, own, offset), to, offset)
