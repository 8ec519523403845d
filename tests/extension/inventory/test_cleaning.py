from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import scan_cache_dir, snapshot_download

from samovar_server.inventory.cleaning import clean
from samovar_server.inventory.leftovers import PARTIAL_SUFFIX, Leftover, list_leftovers
from samovar_server.inventory.locks import at_work, blob_lock, folder_lock
from tests.fakes.folders import COMMIT


@pytest.fixture
def repo(hub_cache: Path) -> Path:
    """A repo in the cache with a snapshot of one file; beside that blob lies one that nothing refers to."""
    repo = hub_cache / "models--org--tiny"
    snapshot = repo / "snapshots" / COMMIT
    for folder in (snapshot, repo / "blobs", repo / "refs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for name in ("named", "orphan", f"half{PARTIAL_SUFFIX}", "half.12345678.incomplete"):
        (repo / "blobs" / name).write_bytes(b"12345")
    (snapshot / "config.json").symlink_to(os.path.relpath(repo / "blobs" / "named", snapshot))
    return repo


def found(models: Path) -> list[Leftover]:
    return list_leftovers([models], models.parent / "converted", ())


def names(leftovers: tuple[Leftover, ...]) -> set[str]:
    return {left.path.name for left in leftovers}


def test_what_no_snapshot_refers_to_goes_and_the_rest_is_found_by_other_tools(
    models: Path, repo: Path
) -> None:
    kinds = {left.path.name: left.kind for left in found(models)}
    assert kinds == {
        "orphan": "orphan",
        f"half{PARTIAL_SUFFIX}": "partial",
        "half.12345678.incomplete": "partial",
    }
    done = clean(found(models))
    assert (names(done.removed), done.in_use, done.freed_bytes) == (set(kinds), (), 15)
    assert found(models) == []
    assert Path(snapshot_download("org/tiny", local_files_only=True), "config.json").read_bytes() == b"12345"
    assert not scan_cache_dir(repo.parent).warnings


def test_a_dry_run_removes_nothing(models: Path, repo: Path) -> None:
    assert len(clean(found(models), dry_run=True).removed) == len(found(models)) == 3


def test_while_a_download_is_at_work_on_the_repo_all_of_it_stays(models: Path, repo: Path) -> None:
    with at_work(repo), at_work(repo):
        done = clean(found(models))
    assert (done.removed, len(done.in_use)) == ((), 3)
    assert len(clean(found(models)).removed) == 3


def test_a_blob_that_huggingface_hub_is_at_work_on_stays(models: Path, repo: Path) -> None:
    blob_lock(repo, "orphan").parent.mkdir(parents=True)
    with FileLock(blob_lock(repo, "orphan")):
        done = clean(found(models))
    assert names(done.in_use) == {"orphan"}


def test_an_orphan_that_has_got_a_name_meanwhile_stays(models: Path, repo: Path) -> None:
    leftovers = found(models)
    (repo / "snapshots" / COMMIT / "new.json").symlink_to(repo / "blobs" / "orphan")
    done = clean(leftovers)
    assert "orphan" not in names(done.removed + done.in_use)
    assert (repo / "blobs" / "orphan").exists()


def test_with_the_last_blob_of_a_repo_without_a_snapshot_the_repo_goes(models: Path, hub_cache: Path) -> None:
    blobs = hub_cache / "models--org--half" / "blobs"
    blobs.mkdir(parents=True)
    for name in ("whole", f"half{PARTIAL_SUFFIX}"):
        (blobs / name).write_bytes(b"12345")
    assert len(clean(found(models)).removed) == 2
    assert not blobs.parent.exists()


@pytest.mark.parametrize("name", [f".tiny{PARTIAL_SUFFIX}", ".tiny.partial-abc"])
def test_a_model_folder_that_is_being_made_stays(models: Path, name: str) -> None:
    work = models / "org" / name
    work.mkdir(parents=True)
    (work / "part").write_bytes(b"12345")
    (left,) = found(models)
    assert (left.kind, left.model, left.size_bytes) == ("partial", "org/tiny", 5)
    with FileLock(folder_lock(models / "org" / "tiny")):
        assert clean([left]).in_use == (left,)
    assert clean([left]).removed == (left,)
    assert not work.exists()
