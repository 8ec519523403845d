"""What a download would bring, asked of the Hub before a byte moves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from samovar_server.downloader import hub_api
from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.fetch import SPARE_BYTES
from samovar_server.downloader.plan import Choice, Plan, Repo, choose, quantizations

SAMPLE_FILES = 20


@dataclass(frozen=True, slots=True)
class RepoCheck:
    """The answer of `POST /v1/models/verify-repo`.

    `status` is ok, or the code of what stands in the way, which `message` tells with the next step; then
    what is not known is 0 or None. `quantizations` are the tags of its GGUF files.
    """

    status: str
    repo_id: str
    revision: str | None
    message: str
    free_disk_bytes: int
    repo_type: str = "model"
    gated: bool | None = None
    total_files: int = 0
    matched_files: int = 0
    total_bytes: int = 0
    sample_files: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ()
    license: str | None = None


def verify(name: str, revision: str | None, choice: Choice, folder: Path | None) -> RepoCheck:
    """Ask the Hub what `choice` would bring of `name` into `folder` (None: the Hugging Face cache)."""
    free = _free_bytes(folder or Path(constants.HF_HUB_CACHE))
    repo: Repo | None = None
    try:
        repo = hub_api.describe(name, revision)
        plan = choose(repo, choice)
    except PullFailed as error:
        return RepoCheck(
            status=error.code,
            repo_id=name,
            revision=repo.commit if repo else revision,
            message=error.message,
            free_disk_bytes=free,
            gated=error.code == "gated" or (repo.gated if repo else None),
            total_files=len(repo.files) if repo else 0,
            quantizations=quantizations(repo.files) if repo else (),
        )
    fits = plan.total_bytes + SPARE_BYTES <= free
    return RepoCheck(
        status="ok" if fits else "disk_full",
        repo_id=name,
        revision=repo.commit,
        message=_message(plan, free, fits=fits),
        free_disk_bytes=free,
        gated=repo.gated,
        total_files=len(repo.files),
        matched_files=len(plan.files),
        total_bytes=plan.total_bytes,
        sample_files=tuple(file.path for file in plan.files[:SAMPLE_FILES]),
        quantizations=quantizations(repo.files),
        license=repo.license,
    )


def _message(plan: Plan, free: int, *, fits: bool) -> str:
    text = f"{len(plan.files)} of {len(plan.repo.files)} files, {plan.total_bytes / 1e9:.2f} GB"
    if plan.refused:
        text += f"; not {', '.join(plan.refused[:5])}, as pickles and programs can run code"
    if not fits:
        text += f". The disk has {free / 1e9:.2f} GB free: free some space, or choose another destination"
    return text + "."


def _free_bytes(folder: Path) -> int:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free
