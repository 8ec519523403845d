"""Models from the Hugging Face Hub: planned from the repo's metadata, fetched by its own client.

Only what the loader reads: safetensors, and the config and tokenizer files beside them. Pickles and
code are never fetched.
"""

from __future__ import annotations

import fnmatch
import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from samovar_server.downloader.checksum import checksum_mismatch, matches
from samovar_server.downloader.failures import PullFailed, SourceUnavailable
from samovar_server.downloader.progress import Reporter, bytes_below
from samovar_server.downloader.staging import Provenance, require_space
from samovar_server.inventory.scan import is_complete

NetworkError: type[Exception] = HfHubHTTPError.__mro__[1]
"""The root of the errors of the HTTP library, which is httpx or httpx2, as the Hub's client has it."""

CONNECT_SECONDS = 4.0
"""How long the Hub may take to answer the first question."""

SPARE_BYTES = 50_000_000
"""Disk space to leave free beyond the files themselves."""

WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json")
BESIDE_WEIGHTS = (
    "LICENSE*",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The files to fetch from one commit. `sha256` is known for the large ones only."""

    repo: str
    revision: str
    commit: str
    files: tuple[str, ...]
    sha256: dict[str, str]
    total_bytes: int
    license: str | None


def plan(repo: str, revision: str | None, reporter: Reporter) -> Plan:
    """Ask the Hub what `repo` has at `revision` (its main branch by default).

    Raises SourceUnavailable when the Hub cannot be reached, PullFailed when it has no such model.
    """
    revision = revision or constants.DEFAULT_REVISION
    with reporter.phase("checking", f"asking the Hugging Face Hub for {repo}"), _explained(repo, revision):
        info = HfApi().model_info(repo, revision=revision, timeout=CONNECT_SECONDS, files_metadata=True)
    chosen = [
        file
        for file in info.siblings or []
        if any(fnmatch.fnmatchcase(file.rfilename, pattern) for pattern in WEIGHTS + BESIDE_WEIGHTS)
        and "/" not in file.rfilename
    ]
    names = [file.rfilename for file in chosen]
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise PullFailed(
            "no_safetensors",
            f"{repo} has no safetensors weights with a config.json, the only kind samovar takes: "
            "choose a repo of the model that has them.",
        )
    assert info.sha is not None, "the Hub answers with the commit it looked at"
    return Plan(
        repo=repo,
        revision=revision,
        commit=info.sha,
        files=tuple(names),
        sha256={file.rfilename: file.lfs.sha256 for file in chosen if file.lfs is not None},
        total_bytes=sum(file.size or 0 for file in chosen),
        license=info.card_data.license if info.card_data is not None else None,
    )


def into_cache(wanted: Plan, reporter: Reporter) -> Path:
    """Fetch into the Hugging Face cache, where every other tool finds it too; the snapshot's folder."""
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    repo_folder = cache / f"models--{wanted.repo.replace('/', '--')}"
    return _fetch(wanted, repo_folder, None, reporter)


def into_folder(wanted: Plan, folder: Path, reporter: Reporter) -> Provenance:
    """Fetch into a plain folder."""
    folder.mkdir()
    _fetch(wanted, folder, folder, reporter)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the Hub client's notes
    return Provenance(
        name=wanted.repo,
        source="Hugging Face Hub",
        sha256=wanted.sha256,
        license=wanted.license,
        revision=wanted.commit,
    )


def _fetch(wanted: Plan, place: Path, local_dir: Path | None, reporter: Reporter) -> Path:
    before = bytes_below(place)
    require_space(
        place if place.exists() else place.parent, max(wanted.total_bytes - before, 0) + SPARE_BYTES
    )
    disable_progress_bars()

    def received() -> int:
        return bytes_below(place) - before

    weights = [name for name in wanted.files if name.endswith(".safetensors")]
    others = [name for name in wanted.files if name not in weights]
    with (
        reporter.phase("downloading", f"downloading {wanted.repo}", received, wanted.total_bytes),
        _explained(wanted.repo, wanted.revision),
    ):
        # The weights last: a folder that has them all is whole, also when this process is killed half-way.
        for names in (others, weights):
            path = snapshot_download(
                wanted.repo,
                # By its name where the cache keeps it, so that the cache learns the name.
                revision=wanted.commit if local_dir else wanted.revision,
                local_dir=local_dir,
                allow_patterns=[glob.escape(name) for name in names],
            )
    folder = Path(path)
    with reporter.phase("verifying", "checking the files"):
        _verify(folder, wanted.sha256)
    if not is_complete(folder):
        raise PullFailed("incomplete", f"{wanted.repo} lacks files that its own index names; pull again.")
    return folder


def _verify(folder: Path, sha256: dict[str, str]) -> None:
    """Remove what is not as the Hub announced it, or the next pull would take it for good."""
    wrong = [name for name, announced in sha256.items() if not matches(folder / name, announced)]
    if not wrong:
        return
    for name in wrong:
        (folder / name).resolve().unlink()  # in the cache a link leads to the file
        (folder / name).unlink(missing_ok=True)
    (folder / "config.json").unlink()  # the sign of a whole model
    raise checksum_mismatch(", ".join(wrong))


@contextmanager
def _explained(repo: str, revision: str) -> Iterator[None]:
    """Turn what the Hub's client raises into sentences."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SourceUnavailable(
            "hub_offline",
            f"HF_HUB_OFFLINE keeps samovar from asking the Hugging Face Hub for {repo}: "
            "unset it, or copy the model's folder into a model folder.",
        ) from error
    except GatedRepoError as error:
        raise PullFailed(
            "gated",
            f"{repo} is gated: accept its terms on the Hub, then set HF_TOKEN to that account's token.",
        ) from error
    except RepositoryNotFoundError as error:
        raise PullFailed(
            "repo_not_found",
            f"The Hub has no model {repo}, or it is private: check the name, or set HF_TOKEN to read it.",
        ) from error
    except RevisionNotFoundError as error:
        raise PullFailed(
            "revision_not_found", f"{repo} has no revision {revision}: check the branch, tag or commit."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PullFailed(
                "unauthorized",
                f"The Hub refuses {repo} to this token ({status}): set HF_TOKEN to one that may read it.",
            ) from error
        raise SourceUnavailable(
            "hub_error", f"The Hub answered {status} for {repo}: try again in a few minutes."
        ) from error
    except (NetworkError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise SourceUnavailable(
            "hub_unreachable",
            f"The Hugging Face Hub cannot be reached for {repo}: check the network and its proxy, "
            "or copy the model's folder into a model folder.",
        ) from error
