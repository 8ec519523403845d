"""Writes LLVM's intermediate representation: loops, and vectors of the processor's width.

What llvmlite's builder takes several calls for and a kernel needs on every line. Addresses are in bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
POINTER = ir.PointerType()
VOID = ir.VoidType()
FLOAT_BYTES = 4
F16_BYTES = 2
BF16_BYTES = 2
LINE = 64
"""Bytes that a processor fetches from memory at once."""


def integer(value: int) -> ir.Constant:
    """A 64-bit constant."""
    return ir.Constant(I64, value)


class Emitter:
    """The body of `function`, line after line; `lanes` are the floats of a vector."""

    def __init__(self, function: ir.Function, lanes: int) -> None:
        self.function = function
        self.lanes = lanes
        self.floats = ir.VectorType(F32, lanes)
        self.ints = ir.VectorType(I32, lanes)
        self._head = function.append_basic_block("head")  # variables, which live as long as the call
        self._begin = function.append_basic_block("body")
        self.build = ir.IRBuilder(self._begin)

    def finish(self) -> None:
        """Return from the function. To be called last."""
        self.build.ret_void()
        ir.IRBuilder(self._head).branch(self._begin)

    def variable(self, kind: ir.Type, value: ir.Value | None = None) -> ir.Value:
        """A place on the stack, set to `value` here."""
        place = ir.IRBuilder(self._head).alloca(kind)
        place.align = 64
        place.type = POINTER  # llvmlite's own knows what it points to, and then insists on it
        if value is not None:
            self.build.store(value, place)
        return place

    def get(self, variable: ir.Value, kind: ir.Type) -> ir.Value:
        """What a variable holds."""
        return self.build.load(variable, typ=kind)

    @contextmanager
    def loop(self, stop: ir.Value, step: int = 1, start: ir.Value | None = None) -> Iterator[ir.Value]:
        """What is written inside runs for start (or 0), start + step, ... below `stop`."""
        counter = self.variable(I64, start if start is not None else integer(0))
        test, body, after = (self.function.append_basic_block(name) for name in ("test", "loop", "after"))
        self.build.branch(test)
        self.build.position_at_end(test)
        index = self.get(counter, I64)
        self.build.cbranch(self.build.icmp_signed("<", index, stop), body, after)
        self.build.position_at_end(body)
        yield index
        self.build.store(self.sum(index, step), counter)
        self.build.branch(test)
        self.build.position_at_end(after)

    def number(self, arguments: ir.Value, index: int) -> ir.Value:
        """The argument at this place, a 64-bit integer."""
        return self.load(I64, self.argument(arguments, index))

    def argument(self, arguments: ir.Value, index: int) -> ir.Value:
        """Where the argument at this place is. In front of them the tasks are counted that are taken."""
        return self.at(arguments, 8 * (index + 1))

    def address(self, arguments: ir.Value, index: int) -> ir.Value:
        """The argument at this place, an address."""
        return self.build.inttoptr(self.number(arguments, index), POINTER)

    @contextmanager
    def tasks(self, arguments: ir.Value, count: ir.Value) -> Iterator[ir.Value]:
        """What is written inside runs once for each of `count` tasks, by the thread that comes first.

        Threads that are held up, as another process has the core, or that are slower, do fewer.
        """
        take, body, after = (self.function.append_basic_block(name) for name in ("take", "task", "after"))
        self.build.branch(take)
        self.build.position_at_end(take)
        task = self.build.atomic_rmw("add", arguments, integer(1), "monotonic")
        self.build.cbranch(self.build.icmp_signed("<", task, count), body, after)
        self.build.position_at_end(body)
        yield task
        self.build.branch(take)
        self.build.position_at_end(after)

    def sum(self, *terms: ir.Value | int) -> ir.Value:
        """Of 64-bit integers."""
        return self._folded(self.build.add, terms)

    def product(self, *factors: ir.Value | int) -> ir.Value:
        """Of 64-bit integers."""
        return self._folded(self.build.mul, factors)

    def _folded(self, operation: Callable[..., ir.Value], terms: Sequence[ir.Value | int]) -> ir.Value:
        values = [integer(term) if isinstance(term, int) else term for term in terms]
        return functools.reduce(operation, values)

    def least(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of two 64-bit integers."""
        return self.build.select(self.build.icmp_signed("<", a, b), a, b)

    def greatest_int(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The greater of two 64-bit integers."""
        return self.build.select(self.build.icmp_signed(">", a, b), a, b)

    def at(self, pointer: ir.Value, *offsets: ir.Value | int) -> ir.Value:
        """`pointer` so many bytes on."""
        if not offsets:
            return pointer
        return self.build.gep(pointer, [self.sum(*offsets)], source_etype=I8)

    def load(self, kind: ir.Type, pointer: ir.Value, *offsets: ir.Value | int, align: int = 1) -> ir.Value:
        """A value or a vector in memory; a vector may lie anywhere."""
        return self.build.load(self.at(pointer, *offsets), align=align, typ=kind)

    def store(self, value: ir.Value, pointer: ir.Value, *offsets: ir.Value | int) -> None:
        """Into memory, at any place."""
        self.build.store(value, self.at(pointer, *offsets), align=1)

    def prefetch(self, pointer: ir.Value) -> None:
        """Bring the line at `pointer` into the cache, so that reading it need not wait. It need not exist."""
        name = "llvm.prefetch.p0"
        module = self.function.module
        if name not in module.globals:
            ir.Function(module, ir.FunctionType(VOID, [POINTER, I32, I32, I32]), name)
        to_read, near, data = (ir.Constant(I32, number) for number in (0, 3, 1))
        self.build.call(module.globals[name], [pointer, to_read, near, data])

    def constant(self, value: float) -> ir.Constant:
        """A vector of floats that are alike."""
        return ir.Constant(self.floats, [float(value)] * self.lanes)

    def whole(self, value: int) -> ir.Constant:
        """A vector of 32-bit integers that are alike."""
        return ir.Constant(self.ints, [value] * self.lanes)

    def spread(self, value: ir.Value) -> ir.Value:
        """A vector whose lanes are all `value`."""
        empty = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = self.build.insert_element(empty, value, ir.Constant(I32, 0))
        return self.shuffled(first, empty, [0] * self.lanes)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c of vectors, rounded once."""
        return self._call("llvm.fma", self.floats, [a, b, c])

    def unary(self, name: str, vector: ir.Value) -> ir.Value:
        """LLVM's function `name` of each lane."""
        return self._call(name, self.floats, [vector])

    def folded(self, name: str, vector: ir.Value, *start: ir.Value) -> ir.Value:
        """LLVM's function `name` of all lanes, a float."""
        return self._call(name, F32, [*start, vector])

    def greatest_of(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The greater of two vectors' lanes."""
        return self._call("llvm.maxnum", self.floats, [a, b])

    def least_of(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of two vectors' lanes."""
        return self._call("llvm.minnum", self.floats, [a, b])

    def shuffled(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """The vector of these lanes of two vectors, whose lanes are counted on."""
        return self.build.shuffle_vector(a, b, ir.Constant(self.ints, list(lanes)))

    def from_bytes(self, values: ir.Value) -> ir.Value:
        """Floats of a vector of bytes with a sign."""
        return self.build.sitofp(self.build.sext(values, self.ints), self.floats)

    def from_bf16(self, values: ir.Value) -> ir.Value:
        """Floats of a vector of 16-bit integers that are bfloat16: their upper halves."""
        return self.build.bitcast(
            self.build.shl(self.build.zext(values, self.ints), self.whole(16)), self.floats
        )

    def _call(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """One of LLVM's intrinsic functions, which are there for any number of lanes."""
        name = f"{name}.v{self.lanes}f32"
        module = self.function.module
        if name not in module.globals:
            ir.Function(module, ir.FunctionType(result, [value.type for value in arguments]), name)
        return self.build.call(module.globals[name], arguments)
