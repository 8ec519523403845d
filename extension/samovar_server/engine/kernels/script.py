"""Scripts: many kernels one after the other in one call, without Python between them.

A kernel of a small model's decode step takes some 20 µs, and so does all that Python does to begin the next.
A script is written once and carried out at every step, as a graph is on a GPU: it is a table of kernels and
their arguments, in which what changes from step to step is overwritten. Its threads wait for each other after
each kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from llvmlite import ir

from samovar_server.engine.kernels.emit import I64, POINTER, VOID, Emitter, integer
from samovar_server.engine.kernels.jit import BARRIER, Call, Kernel, new_kernel

WIDTH = 24
"""Numbers in a row of the table: the kernel's address, the tasks that were taken, and the arguments."""
NUMBER_BYTES = 8


class Script:
    """Calls that are carried out in their order, as often as `run` is called."""

    def __init__(self, calls: Sequence[Call]) -> None:
        rows = [(call.kernel.address, 0, *call.arguments) for call in calls]
        self._table = torch.tensor([row + (0,) * (WIDTH - len(row)) for row in rows])
        self._taken = self._table[:, 1]
        places: dict[Kernel, list[int]] = {}
        for place, call in enumerate(calls):
            places.setdefault(call.kernel, []).append(place)
        self._rows = {kernel: torch.tensor(its) for kernel, its in places.items()}

    def set(self, kernel: Kernel, index: int, value: int) -> None:
        """Let argument `index` be this in all calls of a kernel."""
        self._table[self._rows[kernel], 2 + index] = value

    def run(self) -> None:
        """Carry out all calls, by all threads."""
        self._taken.zero_()
        _script().run(self._table.data_ptr(), len(self._table))


@functools.cache
def _script() -> Kernel:
    """The kernel that calls others. Its arguments are the table and how many rows it has."""
    work = new_kernel("script")
    arguments, thread, threads = work.args
    e = Emitter(work, 1)
    barrier = ir.Function(work.module, ir.FunctionType(VOID, []), BARRIER)
    kind = ir.FunctionType(VOID, [POINTER, I64, I64]).as_pointer()
    with e.loop(e.number(arguments, 1)) as index:
        row = e.at(e.address(arguments, 0), e.product(index, WIDTH * NUMBER_BYTES))
        taken = e.at(row, integer(NUMBER_BYTES))  # where a kernel's arguments begin
        e.build.call(e.load(kind, row, align=NUMBER_BYTES), [taken, thread, threads])
        e.build.call(barrier, [])
    e.finish()
    return Kernel(work)
