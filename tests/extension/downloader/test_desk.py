from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from samovar_server.downloader.desk import DownloadDesk, command
from samovar_server.downloader.job import Wanted
from samovar_server.downloader.jobs import Downloads
from samovar_server.downloader.plan import Choice
from samovar_server.downloader.search import search
from samovar_server.downloader.store import JobStore
from samovar_server.downloader.verify import verify
from samovar_server.errors import HubUnavailable, InvalidRequest
from tests.extension.downloader.conftest import FILES, WANTED
from tests.extension.downloader.test_jobs import FakeProcess
from tests.fakes.fake_hub import FakeHub
from tests.fakes.folders import COMMIT

ALIASES = {"demo": "org/demo", "quick": "org/gguf:Q4_K_M"}


@pytest.fixture
def desk(tmp_path: Path) -> DownloadDesk:
    """Its jobs are not started: what is asked here must be refused, or needs none."""
    jobs = Downloads(
        FakeProcess,
        lambda: JobStore(tmp_path / "jobs"),
        limit=1,
        tell=lambda change, job: None,
        log=logging.getLogger("test"),
    )
    return DownloadDesk(jobs, [tmp_path / "models"], ALIASES)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("org/a", Wanted("org/a")),
        ("org/a@v1", Wanted("org/a", revision="v1")),
        ("demo", Wanted("org/demo")),
        ("org/a:Q4_K_M", Wanted("org/a", quantization="Q4_K_M")),
        ("org/a:x.gguf", Wanted("org/a", include=("x.gguf",))),
        ("quick", Wanted("org/gguf", quantization="Q4_K_M")),
        ("https://hf.co/org/a", Wanted("org/a")),
        ("https://huggingface.co/org/a/tree/v1", Wanted("org/a", revision="v1")),
    ],
)
async def test_what_a_url_means(url: str, meant: Wanted, desk: DownloadDesk) -> None:
    desk.jobs.start()
    try:
        assert desk.request(url, Wanted(url)).wanted == meant
    finally:
        await desk.jobs.stop()


@pytest.mark.parametrize(
    ("url", "more", "param"),
    [
        ("https://evil.example/org/a", {}, "url"),
        ("https://huggingface.co/datasets/org/a", {}, "url"),
        ("../evil", {}, "url"),
        ("--folder=/", {}, "url"),
        ("a/b/c", {}, "url"),
        ("org/a@v1", {"revision": "v2"}, "revision"),
        ("org/a:Q4_0", {"quantization": "Q8_0"}, "url"),
        ("org/a", {"destination": "/etc"}, "destination"),
        ("org/a", {"destination": "../elsewhere"}, "destination"),
    ],
)
def test_what_is_refused(url: str, more: dict[str, Any], param: str, desk: DownloadDesk) -> None:
    with pytest.raises(InvalidRequest) as caught:
        desk.request(url, Wanted(url, **more))
    assert caught.value.param == param


def test_a_link_out_of_the_model_folders_is_no_destination(desk: DownloadDesk, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="below one of"):
        desk.request("org/a", Wanted("org/a", destination="link"))


def test_the_command_has_no_room_for_options_of_others() -> None:
    wanted = Wanted("org/a", "v1", ("--folder=/", "*.json"), ("x",), "Q8_0", "/models")
    assert command(wanted, Path("/m"))[4:] == [
        "--models=/m",
        "--folder=/models",
        "--quantization=Q8_0",
        "--include=--folder=/",
        "--include=*.json",
        "--exclude=x",
        "org/a@v1",
    ]


def test_verify_tells_what_would_come(fake_hub: FakeHub) -> None:
    check = verify("org/tiny", None, Choice(), None)
    assert (check.status, check.revision, check.gated, check.license) == ("ok", COMMIT, False, "mit")
    assert (check.total_files, check.matched_files) == (len(FILES), len(WANTED))
    assert check.total_bytes == sum(len(FILES[name]) for name in WANTED)
    assert set(check.sample_files) == WANTED
    assert fake_hub.fetched == []
    everything = verify("org/tiny", None, Choice(include=("*",)), None)
    assert "pytorch_model.bin" in everything.message


def test_verify_tells_what_stands_in_the_way(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify("org/other", None, Choice(), None).status == "repo_not_found"
    assert verify("org/tiny", "v9", Choice(), None).status == "revision_not_found"
    fake_hub.files |= {"m-Q4_0.gguf": b"4" * 2000, "m-Q8_0.gguf": b"8" * 4000}
    check = verify("org/tiny", None, Choice(quantization="Q2_K"), None)
    assert (check.status, check.quantizations) == ("no_such_quantization", ("Q4_0", "Q8_0"))
    monkeypatch.setattr("samovar_server.downloader.verify._free_bytes", lambda folder: 1000)
    assert verify("org/tiny", None, Choice(), None).status == "disk_full"
    fake_hub.gated = True
    check = verify("org/tiny", None, Choice(), None)
    assert (check.status, check.gated) == ("gated", True)
    assert f"{fake_hub.url}/org/tiny" in check.message


def test_search_tells_sizes_and_what_fits(fake_hub: FakeHub) -> None:
    counts = {"total": 1000, "parameters": {"BF16": 900, "F32": 100}}
    fake_hub.found = [
        {"id": "org/tiny", "downloads": 5, "likes": 1, "gated": "auto", "safetensors": counts},
        {"id": "org/tiny-GGUF", "gated": False, "gguf": {"total": 7}},
        {"id": "org/big"},
    ]
    tiny, gguf = search("tiny", 10, room=2199, here={"org/tiny"})
    assert (tiny.size_bytes, tiny.parameters, tiny.fits, tiny.gated, tiny.on_disk) == (
        2200,
        1000,
        False,
        True,
        True,
    )
    assert (gguf.model_type, gguf.parameters, gguf.size_bytes, gguf.fits) == ("gguf", 7, None, None)
    assert search("tiny", 10, room=2200, here=())[0].fits


async def test_search_says_when_it_is_offline(
    fake_hub: FakeHub, desk: DownloadDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailable, match="HF_HUB_OFFLINE"):
        await desk.search("tiny", 10, room=0, here=())
