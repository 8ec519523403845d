"""A model of the Hub as files that hold what an estimate reads: its config and its files' headers."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported by name only
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from samovar_server.downloader import hub_api
from samovar_server.downloader.plan import INDEX, SINGLE, Choice, Repo, RepoFile, choose
from samovar_server.errors import LoadFailed
from samovar_server.loader.gguf import read_header

CONFIG = "config.json"

HEADER_BYTES = (2 << 20, 8 << 20, 32 << 20, 128 << 20)
"""How much of a GGUF file is fetched until its header is whole: most of it is the vocabulary."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """`folder` looks as the model's would, until the context ends; `commit` is what it stands for.

    `gguf` are the files of a model in GGUF: their headers, and behind them holes of the weights' size.
    """

    folder: Path
    commit: str
    gguf: tuple[Path, ...] = ()


@contextmanager
def sketch(repo: str, revision: str | None, file: str | None = None) -> Iterator[Sketch]:
    """The model in `repo`, or the one in GGUF that `file` names, by name or tag. Fetches little.

    Raises SourceUnavailable when the Hub cannot be asked, PullFailed when it has no such model.
    """
    with tempfile.TemporaryDirectory(prefix="samovar-sketch-") as name:
        yield _draw(hub_api.describe(repo, revision), file, Path(name))


def _draw(repo: Repo, file: str | None, folder: Path) -> Sketch:
    there = {each.path for each in repo.files}
    with hub_api.explained(repo.name, repo.revision):
        if file is None and CONFIG in there and there & {SINGLE, INDEX}:
            _draw_safetensors(repo, there, folder)
            return Sketch(folder, repo.commit)
        parts = [each for each in choose(repo, _choice(file)).files if each.path.endswith(".gguf")]
        return Sketch(folder, repo.commit, tuple(_draw_gguf(repo, part, folder) for part in parts))


def _choice(file: str | None) -> Choice:
    if file is None:
        return Choice()
    return Choice(include=(file,)) if file.lower().endswith(".gguf") else Choice(quantization=file)


def _draw_safetensors(repo: Repo, there: set[str], folder: Path) -> None:
    api = HfApi()
    hf_hub_download(repo.name, CONFIG, revision=repo.commit, local_dir=folder)
    names = {SINGLE}
    if INDEX in there:
        index = hf_hub_download(repo.name, INDEX, revision=repo.commit, local_dir=folder)
        names = set(json.loads(Path(index).read_bytes())["weight_map"].values())
    for name in sorted(names):
        metadata = api.parse_safetensors_file_metadata(
            repo.name, name, revision=repo.commit, timeout=hub_api.ANSWER_SECONDS
        )
        tensors = {
            tensor: {"dtype": each.dtype, "shape": each.shape, "data_offsets": each.data_offsets}
            for tensor, each in metadata.tensors.items()
        }
        header = json.dumps(tensors).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(header)) + header)


def _draw_gguf(repo: Repo, file: RepoFile, folder: Path) -> Path:
    path = folder / PurePosixPath(file.path).name
    url = hf_hub_url(repo.name, file.path, revision=repo.commit)
    with path.open("wb") as stream:
        for end in HEADER_BYTES:
            _append(url, stream, min(end, file.size))
            if _is_whole(path) or end >= file.size:
                break
        stream.truncate(file.size)
    return path


def _append(url: str, stream: BinaryIO, end: int) -> None:
    """Fetch on to the byte `end`, and no further from a server that knows no ranges."""
    start = stream.tell()
    headers = {**build_hf_headers(library_name="samovar"), "Range": f"bytes={start}-{end - 1}"}
    headers["Accept-Encoding"] = "identity"
    with get_session().stream("GET", url, headers=headers, timeout=hub_api.ANSWER_SECONDS) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            stream.seek(0)
        for data in response.iter_raw():
            stream.write(data[: end - stream.tell()])
            if stream.tell() >= end:
                break
    stream.flush()


def _is_whole(path: Path) -> bool:
    """Whether the header is all there: a reader that comes to the end of the file cannot go on."""
    try:
        read_header([path])
    except LoadFailed:
        return False
    return True
