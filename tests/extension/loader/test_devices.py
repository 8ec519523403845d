from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, cast

import pytest

from samovar_server.loader.devices import KIB, Memory, NvidiaGpus, host_memory

GIB = 1024**3


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(total: int, available: int) -> dict[str, str]:
    fields = {"MemTotal": f"{total // KIB} kB", "MemAvailable": f"{available // KIB} kB", "HugePages": "0"}
    return {"proc/meminfo": "\n".join(f"{name}:  {value}" for name, value in fields.items())}


def test_without_a_limit_it_is_the_machines_memory(tmp_path: Path) -> None:
    root = write(tmp_path, {**meminfo(8 * GIB, 5 * GIB), "proc/self/cgroup": "0::/user.slice\n"})
    assert host_memory(root) == Memory(8 * GIB, 5 * GIB)


def test_a_containers_limit_counts_and_its_idle_file_pages_do_not(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            **meminfo(64 * GIB, 50 * GIB),
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        },
    )
    assert host_memory(root) == Memory(4 * GIB, 2 * GIB)


def test_the_tightest_group_around_the_process_decides(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            **meminfo(64 * GIB, 50 * GIB),
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/memory.max": f"{2 * GIB}",
            "sys/fs/cgroup/pod/memory.current": f"{GIB}",
            "sys/fs/cgroup/pod/container/memory.max": "max",
            "sys/fs/cgroup/pod/container/memory.current": "5",
        },
    )
    assert host_memory(root) == Memory(2 * GIB, GIB)


def test_the_older_cgroups_are_understood(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            **meminfo(64 * GIB, 50 * GIB),
            "proc/self/cgroup": "11:cpu:/docker/x\n10:hugetlb,memory:/docker/x\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{5 * GIB}",
        },
    )
    assert host_memory(root) == Memory(4 * GIB, 0)


def test_without_proc_the_system_is_asked(tmp_path: Path) -> None:
    memory = host_memory(tmp_path)
    assert memory.total_bytes == memory.free_bytes > 0


def test_this_machine_has_memory() -> None:
    memory = host_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes


class FakeNvml:
    """NVIDIA's driver library for two GPUs, with its calling convention."""

    def __init__(self, *, init: int = 0, memory: int = 0) -> None:
        self.codes = {"init": init, "memory": memory}

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return self.codes["init"]

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetUUID(self, handle: ctypes.c_void_p, uuid: Any, length: int) -> int:  # noqa: N802
        uuid.value = f"GPU-{'ab'[(handle.value or 0) - 1] * 4}".encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        memory._obj.total, memory._obj.free = (handle.value or 0) * 10, handle.value or 0
        return self.codes["memory"]


def gpus(visible: str | None, **codes: int) -> NvidiaGpus:
    return NvidiaGpus(cast(ctypes.CDLL, FakeNvml(**codes)), visible)


@pytest.mark.parametrize(
    ("visible", "totals"),
    [
        (None, [10, 20]),
        ("", []),
        ("1", [20]),
        ("1,0", [20, 10]),
        ("GPU-bbbb", [20]),
        ("GPU-a, 1", [10, 20]),
        ("0,7,1", [10]),
        ("-1", []),
    ],
)
def test_gpus_are_those_that_cuda_shows(visible: str | None, totals: list[int]) -> None:
    assert [memory.total_bytes for memory in gpus(visible).memory()] == totals


def test_a_driver_that_does_not_start_means_no_gpu() -> None:
    assert gpus(None, init=9).memory() == []


def test_a_driver_that_fails_later_is_an_error() -> None:
    with pytest.raises(OSError, match="error 15"):
        gpus(None, memory=15).memory()


def test_a_machine_without_the_driver_has_no_gpu() -> None:
    assert NvidiaGpus(None, None).memory() == []
