"""What the routes ask about downloads: requests are checked here, before a job or a question to the Hub."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samovar_server.callers import OWNER
from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.hub_url import name_in
from samovar_server.downloader.job import Job, Wanted
from samovar_server.downloader.jobs import Downloads, Process
from samovar_server.errors import Conflict, HubUnavailable, InvalidRequest
from samovar_server.inventory.references import ModelReference, parse_reference
from samovar_server.inventory.scan import is_inside
from samovar_server.loader.child import ChildProcess

if TYPE_CHECKING:  # half a second of huggingface_hub, which a server's start need not wait for
    from samovar_server.downloader.search import FoundModel
    from samovar_server.downloader.verify import RepoCheck

PULL = (sys.executable, "-m", "samovar_server.downloader.tied", "samovar_server.downloader.pull")
"""The downloader, in a process that ends with this one."""


class DownloadDesk:
    """Takes requests for models; `folders` are the model folders, the first the default one."""

    def __init__(self, jobs: Downloads, folders: Sequence[Path], aliases: Mapping[str, str]) -> None:
        self.jobs = jobs
        self._folders = folders
        self._aliases = aliases

    def request(self, url: str, wanted: Wanted, asker: str = OWNER.name) -> Job:
        """Begin (or join) the download of `url` for `asker`, the rest of the wish being in `wanted`.

        Raises InvalidRequest.
        """
        destination = self._destination(wanted.destination)
        return self.jobs.request(replace(self._meant(url, wanted), destination=destination), url, asker)

    async def verify(self, url: str, wanted: Wanted) -> RepoCheck:
        """What that download would bring, or what stands in its way. Raises InvalidRequest."""
        meant = self._meant(url, wanted)
        folder = self._destination(wanted.destination)

        def ask() -> RepoCheck:
            from samovar_server.downloader.plan import Choice
            from samovar_server.downloader.verify import verify

            choice = Choice(meant.include, meant.exclude, meant.quantization)
            return verify(meant.reference, meant.revision, choice, Path(folder) if folder else None)

        return await asyncio.to_thread(ask)

    async def search(self, text: str, limit: int, *, room: int, here: Collection[str]) -> list[FoundModel]:
        """Models of the Hub by name, as `search.py` has it. Raises HubUnavailable."""

        def ask() -> list[FoundModel]:
            from samovar_server.downloader.search import search

            return search(text, limit, room=room, here=here)

        try:
            return await asyncio.to_thread(ask)
        except PullFailed as error:
            raise HubUnavailable(error.message) from error

    def require_idle(self, model: str) -> None:
        """Raise Conflict while `model` is being downloaded."""
        name = parse_reference(model, self._aliases).name
        if name in self.busy():
            raise Conflict(f"{name} is being downloaded: cancel that first, then delete it.")

    def busy(self) -> set[str]:
        """The models whose downloads run or wait, those of this user's other servers too."""
        return {job.wanted.reference for job in self.jobs.all() if job.is_active}

    def _meant(self, url: str, wanted: Wanted) -> Wanted:
        """The wish with the repo, the revision and the quantization that `url` may name."""
        text, revision = name_in(url)
        try:
            reference = parse_reference(text, self._aliases)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param="url") from None
        if not reference.is_hub_name:
            raise InvalidRequest(f"url: {url!r} is no repo of the Hub; write org/name.", param="url")
        given = {named for named in (wanted.revision, revision, reference.revision) if named}
        if len(given) > 1:
            raise InvalidRequest("revision: the url names another one; leave one out.", param="revision")
        meant = replace(wanted, reference=reference.name, revision=next(iter(given), None))
        return _with_file(meant, reference)

    def _destination(self, text: str | None) -> str | None:
        """The folder to put the model into, which lies in one of the model folders."""
        if text is None:
            return None
        path = Path(os.path.normpath(self._folders[0] / Path(text).expanduser()))
        if path.resolve() not in [folder.resolve() for folder in self._folders] and not is_inside(
            path, self._folders
        ):
            raise InvalidRequest(
                "destination: name a folder below one of Workbench.model_folders, or leave it out for the "
                "Hugging Face cache.",
                param="destination",
            )
        return str(path)


def launcher(models: Path, log: logging.Logger) -> Callable[[Wanted], Process]:
    """Starts download processes; `models` is where the demo model goes."""

    def launch(wanted: Wanted) -> ChildProcess:
        return ChildProcess(command(wanted, models), os.environ, log, what="download")

    return launch


def command(wanted: Wanted, models: Path) -> list[str]:
    """The command of the process that brings `wanted`. No token is in it: that comes by the environment."""
    named: dict[str, Any] = {
        "--models": models,
        "--folder": wanted.destination,
        "--quantization": wanted.quantization,
    }
    options = [f"{name}={value}" for name, value in named.items() if value is not None]
    options += [f"--include={glob}" for glob in wanted.include]
    options += [f"--exclude={glob}" for glob in wanted.exclude]
    revision = f"@{wanted.revision}" if wanted.revision else ""
    return [*PULL, *options, f"{wanted.reference}{revision}"]


def _with_file(wanted: Wanted, reference: ModelReference) -> Wanted:
    """`org/name:FILE` means a GGUF file, by its name or its tag."""
    file = reference.file
    if file is None:
        return wanted
    if wanted.include or wanted.quantization:
        raise InvalidRequest("url: name the file after ':', or by include or quantization.", param="url")
    if file.lower().endswith(".gguf"):
        return replace(wanted, include=(file,))
    return replace(wanted, quantization=file)
