"""Functions of vectors that kernels need and processors do not have."""

from __future__ import annotations

import math

from llvmlite import ir

from samovar_server.engine.kernels.emit import F32, Emitter

LEAST = -87.0
"""Below it `exp` is 0: the next floats have fewer digits."""
MOST = 88.0
LN_2 = (0.693359375, -2.12194440e-4)
"""Of which the first has so few digits that its products with whole numbers are exact."""
POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
EXPONENT_BIAS, EXPONENT_SHIFT = 127, 23


def exp(e: Emitter, x: ir.Value) -> ir.Value:
    """e to the power of each lane, to about one unit in the last place (Moshier's Cephes, expf)."""
    least, most = e.constant(LEAST), e.constant(MOST)
    inside = e.least_of(e.greatest_of(x, least), most)
    times = e.unary("llvm.nearbyint", e.build.fmul(inside, e.constant(math.log2(math.e))))
    rest = inside
    for part in LN_2:
        rest = e.multiply_add(times, e.constant(-part), rest)
    sum_ = e.constant(POLYNOMIAL[0])
    for factor in POLYNOMIAL[1:]:
        sum_ = e.multiply_add(sum_, rest, e.constant(factor))
    near_one = e.multiply_add(e.build.fmul(sum_, rest), rest, e.build.fadd(rest, e.constant(1)))
    exponent = e.build.add(e.build.fptosi(times, e.ints), e.whole(EXPONENT_BIAS))
    power = e.build.bitcast(e.build.shl(exponent, e.whole(EXPONENT_SHIFT)), e.floats)
    grown = e.build.fmul(near_one, power)
    grown = e.build.select(e.build.fcmp_ordered("<", x, least), e.constant(0), grown)
    return e.build.select(e.build.fcmp_unordered("uno", x, x), x, grown)  # of what is no number


def tanh(e: Emitter, x: ir.Value) -> ir.Value:
    """The hyperbolic tangent of each lane, to about 1e-7."""
    one = e.constant(1)
    grown = exp(e, e.build.fadd(x, x))
    return e.build.fsub(one, e.build.fdiv(e.constant(2), e.build.fadd(grown, one)))


def silu(e: Emitter, x: ir.Value) -> ir.Value:
    """x * sigmoid(x) of each lane."""
    return e.build.fdiv(x, e.build.fadd(exp(e, e.build.fneg(x)), e.constant(1)))


def transposed(e: Emitter, rows: list[ir.Value]) -> list[ir.Value]:
    """As many vectors as there are lanes, lane i of each being the lanes of the vector i."""
    half = e.lanes // 2
    by_turns = [lane + which * e.lanes for lane in range(e.lanes) for which in (0, 1)]
    low, high = by_turns[: e.lanes], by_turns[e.lanes :]
    for _ in range(e.lanes.bit_length() - 1):  # each time a bit of the place moves between row and lane
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [e.shuffled(*pair, which) for pair in pairs for which in (low, high)]
    return rows


def total(e: Emitter, vector: ir.Value) -> ir.Value:
    """The sum of the lanes, from the first to the last."""
    return e.folded("llvm.vector.reduce.fadd", vector, ir.Constant(F32, 0.0))


def greatest(e: Emitter, vector: ir.Value) -> ir.Value:
    """The greatest lane."""
    return e.folded("llvm.vector.reduce.fmax", vector)
