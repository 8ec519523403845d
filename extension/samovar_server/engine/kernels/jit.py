"""Compiles kernels for this processor by LLVM, once for all processes, and runs them on torch's own threads.

A kernel is a function `work` of the address of its arguments, and of a thread's number among so many. The
threads are those of torch's OpenMP: a second team would fight with it for the cores.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import torch
from llvmlite import binding, ir

from samovar_server.engine.kernels.emit import I32, I64, POINTER, VOID
from samovar_server.engine.kernels.kept import kept

PASSES_LEVEL, CODE_LEVEL = 2, 3
"""How much LLVM is to do to the source, and to the code that it makes of it; at most 3."""
BARRIER = "GOMP_barrier"
"""OpenMP's function in which threads of a team wait for each other; kernels may call it."""
OPTION = "-unroll-runtime=false"
"""For LLVM: loops are unrolled as the source says, but for those of few turns. See `tiles.FEW_ROWS`."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """What a processor's vector registers hold.

    `lanes` floats each. A tile of a matrix product, of so many `rows` by so many vectors of `columns`, fits
    into them together with what it is multiplied from.
    """

    lanes: int
    columns: int
    rows: int

    @property
    def panel(self) -> int:
        """A tile's columns."""
        return self.lanes * self.columns


AVX512 = Vectors(16, 2, 12)
AVX2 = Vectors(8, 2, 6)
NARROW = Vectors(4, 4, 4)
"""Of 128 bits, as in ARM's NEON."""


@functools.cache
def vectors() -> Vectors:
    """Those of this processor."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return AVX512
    return AVX2 if features.get("avx2") and features.get("fma") else NARROW


def new_kernel(name: str) -> ir.Function:
    """A function `work` in a module of its own, to be written."""
    module = ir.Module(name)
    module.triple = binding.get_default_triple()
    return ir.Function(module, ir.FunctionType(VOID, [POINTER, I64, I64]), "work")


class Kernel:
    """The compiled function `work` that `new_kernel` gave."""

    def __init__(self, work: ir.Function) -> None:
        openmp = _openmp()
        if openmp is not None:
            _add_team(work, openmp)
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        cpu, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=cpu, features=features, opt=CODE_LEVEL
        )
        source = str(work.module)
        # All that decides what the compiler gives.
        decisive = (source, cpu, features, PASSES_LEVEL, CODE_LEVEL, OPTION, llvmlite.__version__)
        name = hashlib.sha256(repr(decisive).encode()).hexdigest()
        code = kept(f"{work.module.name}-{name}", lambda: _compiled(source, machine))
        self._code = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)  # owns what is run
        self._code.add_object_file(binding.ObjectFileRef.from_data(code))
        self._code.finalize_object()
        self._team = self._code.get_function_address("team") if openmp is not None else 0
        self._parallel = openmp.GOMP_parallel if openmp is not None else None
        self.address: int = self._code.get_function_address("work")
        """Where the code is, for a script (see `script`)."""
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self.address)

    def run(self, *arguments: int, alone: bool = False) -> None:
        """Carry out the kernel on `arguments`, addresses and sizes, which it finds in this order behind the
        number of tasks that are taken (see `Emitter.tasks`).

        By all threads, or by the caller `alone`.
        """
        packed = array("q", (0, *arguments))
        address, _ = packed.buffer_info()
        if self._parallel is None or alone:
            self._alone(address, 0, 1)
        else:
            threads = torch.get_num_threads()
            self._parallel(self._team, address, threads if _most is None else min(threads, _most), 0)


class Call(NamedTuple):
    """A kernel and what it is to be carried out on, addresses and sizes; what they mean the kernel says."""

    kernel: Kernel
    arguments: tuple[int, ...]

    def run(self, *, alone: bool = False) -> None:
        """Carry it out now."""
        self.kernel.run(*self.arguments, alone=alone)


def _compiled(source: str, machine: binding.TargetMachine) -> bytes:
    """An object file of `source`, optimised."""
    module = binding.parse_assembly(source)
    tuning = binding.create_pipeline_tuning_options(speed_level=PASSES_LEVEL)
    binding.set_option("samovar", OPTION)
    passes = binding.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    code: bytes = machine.emit_object(module)
    return code


_most: int | None = None


def limit_threads(most: int | None) -> None:
    """Let kernels take no more threads from now on; None: as many as torch does. It changes no bit."""
    global _most
    _most = most


def bits_of(value: float) -> int:
    """A float32 as the integer that a kernel's argument is."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits


def has_threads() -> bool:
    """Whether kernels run on more threads than one: whether torch's OpenMP is one that can be asked."""
    return _openmp() is not None


@functools.cache
def _openmp() -> Any:
    """The OpenMP library that torch has loaded, or None when it is not known how to call it."""
    for path in _candidates():
        library = ctypes.CDLL(str(path))
        if hasattr(library, "GOMP_parallel") and hasattr(library, BARRIER):  # GCC's, and LLVM's like it
            library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            library.GOMP_parallel.restype = None
            return library
    return None


def _candidates() -> Iterator[Path]:
    names = ("libgomp", "libomp", "libiomp5")
    yield from (
        path for path in (Path(torch.__file__).parent / "lib").glob("lib*") if path.name.startswith(names)
    )
    loaded = Path("/proc/self/maps")
    if loaded.exists():
        paths = {Path(line.split()[-1]) for line in loaded.read_text().splitlines() if "/" in line}
        yield from sorted(path for path in paths if path.name.startswith(names))


def _add_team(work: ir.Function, openmp: Any) -> None:
    """Write the function `team` that each thread of OpenMP calls, and that calls `work` with its number."""
    binding.add_symbol(BARRIER, ctypes.cast(getattr(openmp, BARRIER), ctypes.c_void_p).value)
    team = ir.Function(work.module, ir.FunctionType(VOID, [POINTER]), "team")
    build = ir.IRBuilder(team.append_basic_block())
    numbers = []
    for name in ("omp_get_thread_num", "omp_get_num_threads"):
        binding.add_symbol(name, ctypes.cast(getattr(openmp, name), ctypes.c_void_p).value)
        asked = ir.Function(work.module, ir.FunctionType(I32, []), name)
        numbers.append(build.zext(build.call(asked, []), I64))
    build.call(work, [team.args[0], *numbers])
    build.ret_void()
