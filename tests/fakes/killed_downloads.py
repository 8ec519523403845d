"""Downloads that are killed (kill -9) at a random moment and then go on: a trial for each seed.

A moment is one of the things that the Hub sees: a request, or a piece of a file that it has sent. So the
same seed kills at the same place, in the plan, at any byte of any file, or while the model is linked.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download

from samovar_server.inventory.leftovers import PARTIAL_SUFFIX
from tests.fakes.fake_hub import PIECE, FakeHub, serving

Victim = Literal["fetcher", "server"]
SECONDS = 60.0
ROOT = Path(__file__).parents[2]


def _random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


FILES = {
    "config.json": b"{}",
    "tokenizer.json": _random_bytes(1, 3 * PIECE + 17),
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors", '
    b'"b": "model-00002-of-00002.safetensors"}}',
    "model-00001-of-00002.safetensors": _random_bytes(2, 24 * PIECE + 1),
    "model-00002-of-00002.safetensors": _random_bytes(3, 20 * PIECE - 1),
}
MOMENTS = 62
"""As many as a download has that nobody disturbs: 51 pieces and 11 requests."""


class Killer:
    """Kills a process when the Hub has seen so many things; `over` is set once it is gone."""

    def __init__(self, at: int) -> None:
        self.over = threading.Event()
        self.has_killed = False
        self._at = at
        self._seen = 0
        self._lock = threading.Lock()
        self._aimed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def aim(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._aimed.set()

    def see(self) -> None:
        assert self._aimed.wait(SECONDS)
        with self._lock:
            self._seen += 1
            if self._seen == self._at and self._process is not None:
                self._process.kill()
                self.has_killed = True


@dataclass(frozen=True)
class Outcome:
    """Of one trial. `refetched` are the bytes that the Hub sent more than once, of the worst file."""

    was_killed: bool
    refetched: int


def trial(seed: int, victim: Victim, folder: Path) -> Outcome:
    """Kill once at the moment that `seed` says, go on to the end, and compare every byte.

    The Hub sends a piece only when the one before it is on disk, so that what it has sent has been received
    by the process and not only by its machine.
    """
    hub, killer = FakeHub(files=dict(FILES)), Killer(random.Random(seed).randrange(1, MOMENTS))
    blobs = folder / "home" / "hub" / "models--org--tiny" / "blobs"

    def on_piece(name: str, position: int) -> None:
        killer.see()
        _wait_for_disk(blobs / hub.digest(name), position, killer.over)

    def on_later_piece(name: str, position: int) -> None:
        _wait_for_disk(blobs / hub.digest(name), position, threading.Event())

    with serving(hub):
        hub.on_request, hub.on_piece = lambda path: killer.see(), on_piece
        with _start(victim, folder, hub.url) as process:
            killer.aim(process)
            out, err = process.communicate(timeout=SECONDS)
            hub.on_piece = on_later_piece
            killer.over.set()
        with _start(victim, folder, hub.url) as process:
            out, err = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, (seed, victim, out, err)
    path = Path(snapshot_download("org/tiny", cache_dir=folder / "home" / "hub", local_files_only=True))
    for name, data in FILES.items():
        got = hashlib.sha256((path / name).read_bytes()).hexdigest()
        assert got == hashlib.sha256(data).hexdigest(), (seed, name)
    assert not list(blobs.glob(f"*{PARTIAL_SUFFIX}")), seed
    refetched = max(hub.sent.get(name, 0) - len(data) for name, data in FILES.items())
    return Outcome(killer.has_killed, refetched)


@contextmanager
def _start(victim: Victim, folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """The downloader, alone or below a server."""
    module, arguments = (
        ("tests.fakes.download_host", [str(folder)])
        if victim == "server"
        else ("samovar_server.downloader.pull", [])
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "0",
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
    }
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", module, *arguments, "org/tiny"]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _size(blob: Path) -> int:
    for path in (blob, blob.with_name(blob.name + PARTIAL_SUFFIX)):
        if path.is_file():
            return path.stat().st_size
    return 0


def _wait_for_disk(blob: Path, position: int, over: threading.Event) -> None:
    """Until the client has written what it was sent; ConnectionError once it is gone.

    Else the Hub would fill the socket of a downloader that outlives its server by some milliseconds.
    """
    until = time.monotonic() + SECONDS
    while _size(blob) < position:
        if over.wait(0.001):
            raise ConnectionAbortedError
        assert time.monotonic() < until, "the client keeps what it has received to itself"
