"""One model from the Hugging Face Hub: into its cache, where every other tool finds it, or into a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported by name only
from huggingface_hub.utils.tqdm import disable_progress_bars

from samovar_server.downloader import hub_api
from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.fetch import Fetcher, Task, remaining_bytes, require_room
from samovar_server.downloader.plan import INDEX, SINGLE, Choice, Plan, RepoFile, choose
from samovar_server.downloader.progress import Planned, Reporter
from samovar_server.downloader.staging import Provenance
from samovar_server.downloader.tally import Tally
from samovar_server.inventory.leftovers import PARTIAL_SUFFIX
from samovar_server.inventory.locks import at_work, blob_lock
from samovar_server.inventory.scan import is_complete


def plan(repo: str, revision: str | None, choice: Choice, reporter: Reporter) -> Plan:
    """What is to be fetched of `repo`. Raises PullFailed or SourceUnavailable."""
    with reporter.phase("checking", f"asking the Hugging Face Hub for {repo}"):
        wanted = choose(hub_api.describe(repo, revision), choice)
    reporter.send(Planned(wanted.repo.commit, len(wanted.files), wanted.total_bytes))
    return wanted


def into_cache(wanted: Plan, reporter: Reporter) -> Path:
    """Fetch into the Hugging Face cache; the snapshot's folder."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{wanted.repo.name.replace('/', '--')}"

    def task(file: RepoFile) -> Task:
        blob = folder / "blobs" / file.digest
        # The lock that huggingface_hub takes for this blob: its downloads and ours wait for each other.
        lock = blob_lock(folder, file.digest)
        return Task(file, _url(wanted, file), blob.with_name(blob.name + PARTIAL_SUFFIX), blob, lock)

    with at_work(folder):
        _fetch(wanted, [task(file) for file in wanted.files], reporter)
        with reporter.phase("saving", "making it known to the Hugging Face cache"):
            _link(wanted)
            _name_revision(wanted, folder)
    snapshot = folder / "snapshots" / wanted.repo.commit
    _require_complete(wanted, snapshot)
    return snapshot


def into_folder(wanted: Plan, work: Path, reporter: Reporter) -> Provenance:
    """Fetch into `work/model`, a plain folder; what an earlier attempt left in `work` is gone on with."""
    model, stamp = work / "model", work / "commit"
    if not stamp.is_file() or stamp.read_text() != wanted.repo.commit:
        # Files of another commit have the same names; partials are named by what they will hold.
        shutil.rmtree(model, ignore_errors=True)
        stamp.write_text(wanted.repo.commit)
    model.mkdir(exist_ok=True)

    def task(file: RepoFile) -> Task:
        part = work / f"{file.digest}{PARTIAL_SUFFIX}"
        return Task(file, _url(wanted, file), part, model / file.path, work / f"{file.digest}.lock")

    _fetch(wanted, [task(file) for file in wanted.files], reporter)
    _require_complete(wanted, model)
    return Provenance(
        name=wanted.repo.name,
        source="Hugging Face Hub",
        sha256={file.path: file.digest for file in wanted.files if file.is_large},
        license=wanted.repo.license,
        revision=wanted.repo.commit,
    )


def _fetch(wanted: Plan, tasks: Sequence[Task], reporter: Reporter) -> None:
    require_room(tasks[0].final.parent, remaining_bytes(tasks))
    tally = Tally({file.path: file.size for file in wanted.files})
    message = f"downloading {wanted.repo.name}"
    with reporter.phase("downloading", message, tally.bytes_done, wanted.total_bytes, tally):
        Fetcher(wanted.repo.name, build_hf_headers(library_name="samovar"), tally).fetch(tasks)


def _url(wanted: Plan, file: RepoFile) -> str:
    return hf_hub_url(wanted.repo.name, file.path, revision=wanted.repo.commit)


def _link(wanted: Plan) -> None:
    """Let huggingface_hub make the snapshot from the blobs; the weights come last and make it whole."""
    disable_progress_bars()
    for file in wanted.files:
        hub_api.link(wanted.repo.name, file.path, wanted.repo.commit)


def _name_revision(wanted: Plan, folder: Path) -> None:
    """Let the cache know which commit the branch or tag was, as huggingface_hub notes it for its own."""
    repo = wanted.repo
    if repo.revision == repo.commit:
        return
    ref = folder / "refs" / repo.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=ref.parent, delete=False) as file:
        file.write(repo.commit)
    Path(file.name).replace(ref)


def _require_complete(wanted: Plan, folder: Path) -> None:
    """A model that transformers is to load has all that its own index names."""
    paths = {file.path for file in wanted.files}
    if "config.json" in paths and paths & {SINGLE, INDEX} and not is_complete(folder):
        raise PullFailed(
            "incomplete", f"{wanted.repo.name} lacks files that its own index names: tell its owner."
        )
