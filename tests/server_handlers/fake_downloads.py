"""Downloads whose processes and whose Hub are the test's."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from samovar_server.downloader.desk import DownloadDesk
from samovar_server.downloader.job import Wanted
from samovar_server.downloader.jobs import Downloads
from samovar_server.downloader.search import FoundModel
from samovar_server.downloader.store import JobStore
from samovar_server.downloader.verify import RepoCheck
from samovar_server.errors import HubUnavailable
from tests.server_handlers.fakes import FakeWorkbench

FOUND = FoundModel("org/a", 5, 1, False, "transformers", 10, 20, True, on_disk=False)


class FakeProcess:
    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        self.lines.put_nowait(None)
        self.exit_code.set_result(-9)


class FakeDesk(DownloadDesk):
    """Real jobs with fake processes; the Hub's answers are the test's."""

    async def verify(self, url: str, wanted: Wanted) -> RepoCheck:
        self._meant(url, wanted)
        return RepoCheck("ok", url, "abc", "3 of 5 files", 1000, matched_files=3, total_files=5)

    async def search(self, text: str, limit: int, **more: Any) -> list[FoundModel]:
        if text == "offline":
            raise HubUnavailable("The Hugging Face Hub cannot be reached: check the network.")
        return [FOUND][:limit]


def fake_downloads(workbench: FakeWorkbench, folder: Path) -> list[FakeProcess]:
    """Gives `workbench` downloads, one at a time; the processes that they have started are in the list."""
    started: list[FakeProcess] = []

    def launch(wanted: Wanted) -> FakeProcess:
        started.append(FakeProcess())
        return started[-1]

    jobs = Downloads(
        launch,
        lambda: JobStore(folder / "jobs"),
        limit=1,
        tell=workbench._tell_download,
        log=logging.getLogger("test"),
    )
    jobs.start()
    workbench.downloads = FakeDesk(jobs, [folder / "models"], {})
    return started
