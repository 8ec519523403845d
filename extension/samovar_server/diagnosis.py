"""Whether this server can do its work: what `samovar doctor` asks of it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from samovar_server.loader.spare import SpareState


@dataclass(frozen=True, slots=True)
class FolderState:
    """A folder for models. One that is not there yet is made by the first download, if that may be.

    `free_bytes` is what its disk has left; None where that cannot be said.
    """

    path: str
    exists: bool
    writable: bool
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is well and what is not. `engine_problem` is why no model can be run, None when all is there.

    `spare` is how the worker is that waits with its libraries imported; `default_model_here` says whether the
    model is on the disk that a request means which names none.
    """

    folders: list[FolderState]
    engine_problem: str | None
    spare: SpareState
    default_model: str
    default_model_here: bool


def folder_state(folder: Path) -> FolderState:
    """How `folder` is now."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        free: int | None = shutil.disk_usage(nearest).free
    except OSError:
        free = None
    return FolderState(str(folder), folder.is_dir(), os.access(nearest, os.W_OK), free)
