"""Compiled kernels on disk: taken again by the next process, and only from where nobody else can write."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from samovar_server.engine.kernels import jit
from samovar_server.engine.kernels.kept import FOLDER, kept
from tests.extension.engine.kernels.test_jit import counted, counting


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "not yet" / "kernels"
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


class Compiler:
    """Gives code of its own each time, and counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> bytes:
        self.runs += 1
        return b"code %d" % self.runs


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


def test_code_is_made_once(folder: Path, compiler: Compiler) -> None:
    codes = [kept(name, compiler) for name in ("a", "a", "b")]
    assert codes == [b"code 1", b"code 1", b"code 2"]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"], "and nothing is left beside it"


@pytest.mark.parametrize("spoiled", [b"", b"code", b"x" * 40])
def test_a_file_that_is_not_as_it_was_written_is_made_anew(
    folder: Path, compiler: Compiler, spoiled: bytes
) -> None:
    kept("a", compiler)
    (folder / "a").write_bytes(spoiled)
    assert [kept("a", compiler), kept("a", compiler)] == [b"code 2", b"code 2"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no modes; its folder is the user's own")
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_code_that_others_may_have_put_there_does_not_run(
    folder: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    kept("a", compiler)
    folder.chmod(mode)
    caplog.set_level(logging.INFO)
    assert kept("a", compiler) == b"code 2"
    assert f"none are kept in {folder}: others may write to it" in caplog.text


def test_where_nothing_can_be_kept_it_is_made_each_time(
    folder: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.write_text("A file where the folder should be.")
    caplog.set_level(logging.INFO)
    assert [kept("a", compiler), kept("a", compiler)] == [b"code 1", b"code 2"]
    assert str(folder) in caplog.text


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_code_that_cannot_be_written_is_made_once_each_time(folder: Path, compiler: Compiler) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    assert [kept("a", compiler), kept("a", compiler)] == [b"code 1", b"code 2"]


def test_a_full_disk_is_left_as_it_was(
    folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def replace(path: Path, target: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", replace)
    caplog.set_level(logging.INFO)
    assert kept("a", compiler) == b"code 1"
    assert list(folder.iterdir()) == []
    assert "No space left" in caplog.text


def test_an_empty_name_of_the_folder_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, compiler: Compiler
) -> None:
    monkeypatch.setenv(FOLDER, "")
    assert [kept("a", compiler), kept("a", compiler)] == [b"code 1", b"code 2"]


def test_without_a_word_it_is_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: Compiler
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(
        "samovar_server.engine.kernels.kept.user_cache_path", lambda name, appauthor: tmp_path / name
    )
    kept("a", compiler)
    assert (tmp_path / "samovar" / "kernels" / "a").exists()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_kernel_from_the_disk_runs_like_the_one_that_was_compiled(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = counted(counting())
    assert len(list(folder.iterdir())) == 1

    def compile_again(source: str, machine: object) -> bytes:
        raise AssertionError("it was kept")

    monkeypatch.setattr(jit, "_compiled", compile_again)
    assert counted(counting()) == compiled
    monkeypatch.setattr(jit, "CODE_LEVEL", 1)
    with pytest.raises(AssertionError, match="it was kept"):  # compiled in another way it is another
        counting()
