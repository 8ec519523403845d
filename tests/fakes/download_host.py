"""A server that does nothing but downloads: `python -m tests.fakes.download_host FOLDER REPO`.

It goes on with what a host before it has left, or else asks for REPO; it prints each change of a status as
a line of JSON and ends when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from samovar_server.downloader.desk import DownloadDesk, launcher
from samovar_server.downloader.job import Wanted
from samovar_server.downloader.jobs import Downloads
from samovar_server.downloader.store import JobStore


async def main(folder: Path, repo: str) -> None:
    idle = asyncio.Event()

    def tell(change: str, job: dict[str, Any]) -> None:
        if change != "progress":
            print(json.dumps({"change": change, "bytes_done": job["bytes_done"]}), flush=True)
        if change in ("completed", "failed"):
            idle.set()

    log = logging.getLogger("host")
    jobs = Downloads(launcher(folder / "models", log), lambda: JobStore(folder), limit=2, tell=tell, log=log)
    jobs.start()
    (job, *_) = jobs.all() or [DownloadDesk(jobs, [folder / "models"], {}).request(repo, Wanted(repo))]
    if job.status == "failed":  # on a machine that is so busy that the Hub seemed mute
        jobs.resume(job.job_id)
    if job.status == "completed":
        idle.set()
    await idle.wait()
    await jobs.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
