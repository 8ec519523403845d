"""How much memory the host and its GPUs have, found without importing torch.

Main memory is what this process may use: a container's limit (cgroup v1 or v2) counts, not only the
machine. GPUs are asked through NVIDIA's driver library, which needs nothing installed besides it.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

KIB = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device: all of it, and what could be taken now."""

    total_bytes: int
    free_bytes: int


def host_memory(root: Path = Path("/")) -> Memory:
    """Main memory within this process's limits; `root` is where /proc and /sys are looked for."""
    machine = _machine_memory(root)
    total, free = machine.total_bytes, machine.free_bytes
    for limit, used in _cgroup_limits(root):
        total = min(total, limit)
        free = min(free, max(limit - used, 0))
    return Memory(total, free)


def _machine_memory(root: Path) -> Memory:
    text = _read(root / "proc/meminfo")
    if text is not None:
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        total, available = (int(fields[name].split()[0]) * KIB for name in ("MemTotal", "MemAvailable"))
        return Memory(total, available)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # macOS does not tell what is free without a foreign library; the budget is a share of the total.
    return Memory(total, total)


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) in bytes of every cgroup with a limit around this process."""
    found = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be the host's and missing here: the walk ends at the mount.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            pair = _cgroup_limit(base.joinpath(*parts[:depth]), *names)
            if pair is not None:
                found.append(pair)
    return found


def _cgroup_limit(group: Path, limit_file: str, usage_file: str, cache_field: str) -> tuple[int, int] | None:
    limit, usage = _read(group / limit_file), _read(group / usage_file)
    if limit is None or usage is None or not limit.strip().isdigit():  # "max": no limit
        return None
    statistics = dict(line.split() for line in (_read(group / "memory.stat") or "").splitlines())
    # File pages that nobody uses count as usage, but are given up when memory is needed.
    return int(limit), max(int(usage) - int(statistics.get(cache_field, 0)), 0)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


class _NvmlMemory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvidiaGpus:
    """The NVIDIA GPUs that CUDA programs see here, in CUDA's numbering by PCI bus.

    `library` is the loaded driver library, None where there is none; `visible` is what
    CUDA_VISIBLE_DEVICES holds (indices or GPU-… identifiers), None when it is not set.
    """

    def __init__(self, library: ctypes.CDLL | None, visible: str | None) -> None:
        self._library = library
        self._handles: list[ctypes.c_void_p] = []
        if library is not None and library.nvmlInit_v2() == 0:
            self._handles = self._visible(self._all_handles(library), visible)

    @classmethod
    def detect(cls) -> NvidiaGpus:
        """Ask this machine's driver, if it has one."""
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            library = None
        return cls(library, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def memory(self) -> list[Memory]:
        """One entry per visible GPU: entry 0 is cuda:0."""
        return [self._memory(handle) for handle in self._handles]

    def _all_handles(self, library: ctypes.CDLL) -> list[tuple[str, ctypes.c_void_p]]:
        count = ctypes.c_uint()
        _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        handles = []
        for index in range(count.value):
            handle, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            _check(library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)))
            _check(library.nvmlDeviceGetUUID(handle, uuid, len(uuid)))
            handles.append((uuid.value.decode(), handle))
        return handles

    @staticmethod
    def _visible(handles: list[tuple[str, ctypes.c_void_p]], visible: str | None) -> list[ctypes.c_void_p]:
        if visible is None:
            return [handle for _, handle in handles]
        chosen = []
        for item in (part.strip() for part in visible.split(",")):
            matches = [
                handle
                for index, (uuid, handle) in enumerate(handles)
                if item == str(index) or (item and uuid.startswith(item))
            ]
            if not matches:  # CUDA stops at the first one that it does not know
                break
            chosen.append(matches[0])
        return chosen

    def _memory(self, handle: ctypes.c_void_p) -> Memory:
        assert self._library is not None
        memory = _NvmlMemory()
        _check(self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)))
        return Memory(memory.total, memory.free)


def _check(code: int) -> None:
    if code != 0:
        raise OSError(f"the NVIDIA driver library answered with error {code}")
