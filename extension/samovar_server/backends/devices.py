"""Which device a load is for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from samovar_server.errors import InvalidRequest


def choose_device(asked: str, budgets: Mapping[str, int], *, cuda: bool) -> str:
    """The device `asked` stands for: `auto` prefers a GPU, `cuda` takes the GPU with the most room.

    `cuda` False means that the installed torch has no CUDA in it. InvalidRequest when there is no
    such device.
    """
    gpus = [device for device in budgets if device != "cpu"] if cuda else []
    if asked == "cpu" or (asked == "auto" and not gpus):
        return "cpu"
    if asked in ("auto", "cuda") and gpus:
        return max(gpus, key=lambda device: budgets[device])
    if asked in gpus:
        return asked
    has = ", ".join(["cpu", *gpus])
    why = "" if cuda else " (the installed torch is a build for CPUs)"
    raise InvalidRequest(
        f"device: there is no {asked!r} here{why}. Choose one of: auto, {has}.", param="device"
    )


def has_cuda_build() -> bool:
    """Whether the installed torch can use NVIDIA GPUs, told from its files without importing it."""
    torch = find_spec("torch")
    folders = torch.submodule_search_locations if torch is not None else None
    return any((Path(folder) / "lib" / "libtorch_cuda.so").exists() for folder in folders or ())
