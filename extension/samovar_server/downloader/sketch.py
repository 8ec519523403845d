"""A model of the Hub as a folder that holds what an estimate reads: its config and its files' headers."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download

from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.hub_api import explained

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ANSWER_SECONDS = 10.0


@contextmanager
def sketch(repo: str, revision: str | None) -> Iterator[tuple[Path, str]]:
    """The folder, until the context ends, and the commit it stands for. Fetches some kilobytes.

    Raises SourceUnavailable when the Hub cannot be asked, PullFailed when it has no such model.
    """
    with tempfile.TemporaryDirectory(prefix="samovar-sketch-") as name:
        folder = Path(name)
        with explained(repo, revision or constants.DEFAULT_REVISION):
            commit = _draw(repo, revision, folder)
        yield folder, commit


def _draw(repo: str, revision: str | None, folder: Path) -> str:
    api = HfApi()
    info = api.model_info(repo, revision=revision, timeout=ANSWER_SECONDS)
    assert info.sha is not None, "the Hub answers with the commit it looked at"
    there = {sibling.rfilename for sibling in info.siblings or []}
    if CONFIG not in there or not there & {SINGLE, INDEX}:
        raise PullFailed(
            "no_safetensors",
            f"{repo} has no config.json with safetensors weights, from which its memory could be estimated.",
        )
    hf_hub_download(repo, CONFIG, revision=info.sha, local_dir=folder)
    names = {SINGLE}
    if INDEX in there:
        index = hf_hub_download(repo, INDEX, revision=info.sha, local_dir=folder)
        names = set(json.loads(Path(index).read_bytes())["weight_map"].values())
    for name in sorted(names):
        metadata = api.parse_safetensors_file_metadata(repo, name, revision=info.sha, timeout=ANSWER_SECONDS)
        tensors = {
            tensor: {"dtype": each.dtype, "shape": each.shape, "data_offsets": each.data_offsets}
            for tensor, each in metadata.tensors.items()
        }
        header = json.dumps(tensors).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(header)) + header)
    return info.sha
