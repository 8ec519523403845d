"""`samovar doctor`: whether the set-up works, and what to do where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from jupyter_core.paths import jupyter_config_path

from samovar.connect import Server, find_server
from samovar.errors import NoServer, SamovarError, ServerError
from samovar.progress import size
from samovar.records import DeviceMemory, Diagnosis, Folder
from samovar.session import Session

LEAST_DISK_BYTES = 2 * 10**9
LEAST_MEMORY_BYTES = 10**9
"""Less than this holds no model worth having beside what is there."""

EXTENSION = "samovar_server"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to do; `fix` is None where all is well."""

    name: str
    found: str
    fix: str | None = None

    def __str__(self) -> str:
        line = f"{'✓' if self.fix is None else '✗'} {self.name:<14} {self.found}"
        return line if self.fix is None else f"{line}\n  → {self.fix}"


def checks(find: Callable[[], Server] = find_server) -> Iterator[Check]:
    """Look at one thing after the other; what needs a thing that fails is not looked at any more."""
    try:
        server = find()
    except NoServer as error:
        yield from extension()
        yield Check("server", "none was found", str(error))
        return
    yield Check("server", f"{server.url}, found through {server.source}")
    with closing(Session(server)) as session:
        yield from _of_server(session)


def report(found: Sequence[Check]) -> str:
    """The checks as text, with a line on how it stands."""
    wrong = sum(check.fix is not None for check in found)
    verdict = "All is well." if not wrong else f"{wrong} of {len(found)} checks found something to mend."
    return "\n".join([*map(str, found), "", verdict])


def extension(paths: Callable[[], Sequence[str]] = jupyter_config_path) -> Iterator[Check]:
    """Whether a Jupyter server started from here would have samovar in it."""
    if find_spec("jupyter_server") is None or find_spec(EXTENSION) is None:
        yield Check(
            "extension",
            "no Jupyter server with samovar is installed in this environment",
            "Run: pip install 'samovar[local]', or start the server from the environment that has it.",
        )
        return
    told = [enabled for folder in paths() if (enabled := _enabled(Path(folder))) is not None]
    if told and told[0]:  # the first folder has the last word
        yield Check("extension", "enabled")
    else:
        yield Check(
            "extension",
            "disabled in Jupyter's settings" if told else "not enabled in Jupyter's settings",
            f"Run: jupyter server extension enable {EXTENSION}",
        )


def _enabled(folder: Path) -> bool | None:
    """What the settings in `folder` say; None: nothing."""
    told: bool | None = None
    files = (folder / "jupyter_server_config.json", *sorted(folder.glob("jupyter_server_config.d/*.json")))
    for file in files:
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # Jupyter itself complains of a file that it cannot read
        extensions: Mapping[str, bool] = settings.get("ServerApp", {}).get("jpserver_extensions", {})
        told = extensions.get(EXTENSION, told)
    return told


def _of_server(session: Session) -> Iterator[Check]:
    try:
        versions = session.versions()
    except ServerError as error:
        yield _refusal(error)
        return
    except SamovarError as error:
        yield Check("answer", "the server does not answer", str(error))
        return
    yield Check("token", "accepted")
    yield Check("extension", "that server has samovar in it")
    yield _versions(versions)
    try:
        told = session.diagnosis()
        memory = session.memory()
    except SamovarError as error:
        yield Check("diagnosis", "the server does not say how it is", str(error))
        return
    yield from _diagnosis(told)
    yield from map(_memory, memory)


def _refusal(error: ServerError) -> Check:
    match error.status:
        case 401 | 403:
            return Check("token", "the server does not accept it", str(error))
        case 404:
            return Check(
                "extension",
                "what answers there has no samovar in it",
                "Install samovar in the environment of that Jupyter server, and restart it; "
                f"or run there: jupyter server extension enable {EXTENSION}",
            )
        case _:
            return Check("answer", str(error), "The log of that server says why.")


def _versions(versions: Mapping[str, str]) -> Check:
    here, there = version("samovar"), versions.get("samovar", "unknown")
    more = ", ".join(f"{name} {told}" for name, told in versions.items() if name != "samovar")
    if here == there:
        return Check("versions", f"samovar {here} here and on the server ({more})")
    return Check(
        "versions",
        f"samovar {here} here, {there} on the server",
        "Install the same version in both environments, and restart the server and this kernel.",
    )


def _diagnosis(told: Diagnosis) -> Iterator[Check]:
    if told.engine_problem is not None:
        yield Check("engine", "the server cannot run models", told.engine_problem)
    else:
        yield Check("engine", "torch and transformers are there")
    yield _spare(told.spare)
    for place, folder in enumerate(told.folders):
        yield from _folder(folder, takes_downloads=place == 0)
    name = told.default_model
    if told.default_model_here:
        yield Check("default model", f"{name} is on the disk")
    else:
        yield Check("default model", f"{name} is not on the disk", f"Run: samovar pull {name}")


def _spare(state: str) -> Check:
    words = {
        "off": "none, by the server's settings",
        "none": "not started yet",
        "importing": "importing torch and transformers",
        "ready": "has torch and transformers imported",
    }
    if state in words:
        return Check("spare worker", words[state])
    return Check(
        "spare worker",
        "it ended by itself: torch or transformers cannot be imported",
        "The server's log says why. It often helps to run: pip install --force-reinstall torch.",
    )


def _folder(folder: Folder, *, takes_downloads: bool) -> Iterator[Check]:
    path = folder.path
    if not takes_downloads:
        if folder.exists:
            yield Check("model folder", path)
        else:
            fix = "Make it, or take it out of Workbench.model_folders."
            yield Check("model folder", f"{path} is not there", fix)
        return
    if folder.writable:
        yield Check("model folder", path if folder.exists else f"{path}, made by the first download")
    else:
        yield Check(
            "model folder",
            f"the server may not write to {path}",
            "Give it the right, or set another first folder in Workbench.model_folders.",
        )
    free = folder.free_bytes
    if free is not None and free < LEAST_DISK_BYTES:
        fix = "Free some: samovar clean takes away what no model needs."
        yield Check("disk", f"{size(free)} free for models", fix)
    elif free is not None:
        yield Check("disk", f"{size(free)} free for models")


def _memory(device: DeviceMemory) -> Check:
    free = min(device.free_bytes, device.budget_bytes - device.used_bytes)
    found = f"{device.device}: {size(max(free, 0))} free for models, of {size(device.budget_bytes)}"
    if free >= LEAST_MEMORY_BYTES or device.used_bytes:
        return Check("memory", found)
    return Check(
        "memory", found, "End programs that take memory, or raise the budget in the server's settings."
    )
