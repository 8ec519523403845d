"""Kernels: compiled for this processor, and run by all of torch's threads or by one."""

from __future__ import annotations

import sys

import pytest
import torch
from llvmlite import ir

from samovar_server.engine.kernels import jit
from samovar_server.engine.kernels.emit import I64, Emitter
from samovar_server.engine.kernels.jit import Kernel, has_threads, new_kernel


def counting() -> Kernel:
    """A kernel in which each thread writes the number of threads to its own place of an array."""
    work = new_kernel("counting")
    arguments, thread, threads = work.args
    e = Emitter(work, 4)
    array = e.address(arguments, 0)
    e.store(threads, array, e.product(thread, 8))
    e.finish()
    return Kernel(work)


def counted(kernel: Kernel) -> list[int]:
    places = torch.zeros(4, dtype=torch.int64)
    kernel.run(places.data_ptr())
    found: list[int] = places.tolist()
    return found


def test_a_kernel_runs_on_each_of_torchs_threads() -> None:
    kernel, before = counting(), torch.get_num_threads()
    for threads in (3, 2):
        torch.set_num_threads(threads)
        expected = threads if has_threads() else 1
        assert counted(kernel) == [expected] * expected + [0] * (4 - expected)
    torch.set_num_threads(before)


def test_without_a_known_openmp_one_thread_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_openmp", lambda: None)
    assert not has_threads()
    assert counted(counting()) == [1, 0, 0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GCC's OpenMP on Linux")
def test_torchs_threads_are_found_on_linux() -> None:
    assert has_threads()


def test_the_shapes_fit_into_the_registers() -> None:
    """Sums, a row of weights and an input: of 32 registers with AVX512 and NEON, of 16 with AVX2."""
    for shape, registers in ((jit.AVX512, 32), (jit.AVX2, 16), (jit.NARROW, 32)):
        assert (shape.rows + 1) * shape.columns + 1 <= registers


def test_each_task_is_done_once_whoever_does_it() -> None:
    work = new_kernel("tasks")
    e = Emitter(work, 4)
    array, count = e.address(work.args[0], 0), e.number(work.args[0], 1)
    with e.tasks(work.args[0], count) as task:
        place = e.product(task, 8)
        e.store(e.sum(e.load(I64, array, place), 1), array, place)
    e.finish()
    kernel, before = Kernel(work), torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        done = torch.zeros(1001, dtype=torch.int64)
        kernel.run(done.data_ptr(), 1000)
        assert done.tolist() == [1] * 1000 + [0]
    torch.set_num_threads(before)


def test_loops_run_from_start_to_stop_by_steps() -> None:
    work = new_kernel("loop")
    e = Emitter(work, 4)
    array = e.address(work.args[0], 0)
    with e.loop(ir.Constant(I64, 9), 3, ir.Constant(I64, 2)) as index:
        e.store(index, array, e.product(index, 8))
    e.finish()
    places = torch.zeros(12, dtype=torch.int64)
    Kernel(work).run(places.data_ptr())
    assert places.tolist() == [0, 0, 2, 0, 0, 5, 0, 0, 8, 0, 0, 0]
