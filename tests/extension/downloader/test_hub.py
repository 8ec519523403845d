from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import constants

from samovar_server.downloader import hub, hub_api
from samovar_server.downloader.failures import PullFailed, SourceUnavailable
from samovar_server.downloader.plan import Choice
from samovar_server.inventory.references import resolve
from samovar_server.inventory.scan import list_models
from tests.extension.downloader.conftest import FILES, WANTED, WEIGHTS, Recorder
from tests.fakes.fake_hub import FakeHub
from tests.fakes.folders import COMMIT


def test_only_what_the_loader_reads_is_planned(fake_hub: FakeHub, reporter: Recorder) -> None:
    plan = hub.plan("org/tiny", None, Choice(), reporter)
    assert {file.path for file in plan.files} == WANTED
    assert (plan.repo.commit, plan.repo.license) == (COMMIT, "mit")
    assert plan.total_bytes == sum(len(FILES[name]) for name in WANTED)


def test_into_the_cache_where_every_tool_finds_it(fake_hub: FakeHub, reporter: Recorder) -> None:
    path = hub.into_cache(hub.plan("org/tiny", None, Choice(), reporter), reporter)
    assert set(fake_hub.fetched) == WANTED
    assert {file.name for file in path.iterdir()} == WANTED
    assert reporter.phases == ["checking", "downloading", "saving"]
    last = [event for event in reporter.events if event.get("phase") == "downloading"][-1]
    assert last["bytes_done"] == last["bytes_total"] == sum(len(FILES[name]) for name in WANTED)
    found = resolve("org/tiny", folders=[], aliases={})
    assert (found.path, found.revision) == (path, COMMIT)
    assert [model.name for model in list_models([])] == ["org/tiny"]


def test_into_a_folder(fake_hub: FakeHub, tmp_path: Path, reporter: Recorder) -> None:
    provenance = hub.into_folder(hub.plan("org/tiny", "main", Choice(), reporter), tmp_path, reporter)
    assert (provenance.name, provenance.revision, provenance.license) == ("org/tiny", COMMIT, "mit")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == WEIGHTS
    assert {file.name for file in (tmp_path / "model").iterdir()} == WANTED


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_what_arrives_changed_is_thrown_away(name: str, fake_hub: FakeHub, reporter: Recorder) -> None:
    plan = hub.plan("org/tiny", None, Choice(), reporter)
    fake_hub.wrong_bytes = {name}
    with pytest.raises(PullFailed, match=f"{name} arrived with another checksum") as caught:
        hub.into_cache(plan, reporter)
    assert caught.value.code == "checksum_mismatch"
    assert list_models([]) == []
    fake_hub.wrong_bytes = set()
    path = hub.into_cache(plan, reporter)
    assert {file: (path / file).read_bytes() for file in WANTED} == {file: FILES[file] for file in WANTED}


def test_the_weights_come_last(fake_hub: FakeHub, reporter: Recorder) -> None:
    """So that a folder with weights is whole, whenever the process was killed."""
    linked: list[str] = []

    def watch(path: str) -> None:
        linked.append(path.rpartition("/")[2])

    wanted = hub.plan("org/tiny", None, Choice(), reporter)
    fake_hub.on_request = watch
    hub.into_cache(wanted, reporter)
    assert linked[-1] == "model.safetensors"
    assert fake_hub.asked[-1].startswith("HEAD ")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repo_without_safetensors_is_refused(missing: str, fake_hub: FakeHub, reporter: Recorder) -> None:
    del fake_hub.files[missing]
    with pytest.raises(PullFailed, match="neither safetensors weights") as caught:
        hub.plan("org/tiny", None, Choice(), reporter)
    assert caught.value.code == "no_safetensors"


def test_a_missing_shard_is_not_a_model(fake_hub: FakeHub, reporter: Recorder) -> None:
    del fake_hub.files["model.safetensors"]
    weight_map = {"a": "model-00001-of-00001.safetensors", "b": "other.safetensors"}
    fake_hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    fake_hub.files["model-00001-of-00001.safetensors"] = WEIGHTS
    with pytest.raises(PullFailed, match="lacks files that its own index names"):
        hub.into_cache(hub.plan("org/tiny", None, Choice(), reporter), reporter)
    assert list_models([]) == []


class Answer(NamedTuple):
    status: int
    error_code: str | None
    code: str
    next_step: str


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, "GatedRepo", "gated", "accept its terms at http://.*/org/tiny, create a token at"),
        Answer(401, "RepoNotFound", "repo_not_found", "or it is private: then set HF_TOKEN"),
        Answer(404, "RepoNotFound", "repo_not_found", "or it is private: then set HF_TOKEN"),
        Answer(403, None, "unauthorized", "set HF_TOKEN"),
    ],
)
def test_a_refusal_names_the_next_step(answer: Answer, fake_hub: FakeHub, reporter: Recorder) -> None:
    fake_hub.status, fake_hub.error_code = answer.status, answer.error_code
    with pytest.raises(PullFailed, match=answer.next_step) as caught:
        hub.plan("org/tiny", None, Choice(), reporter)
    assert (caught.value.code, type(caught.value)) == (answer.code, PullFailed)


def test_a_revision_that_is_not_there(fake_hub: FakeHub, reporter: Recorder) -> None:
    with pytest.raises(PullFailed, match="has no revision v9") as caught:
        hub.plan("org/tiny", "v9", Choice(), reporter)
    assert caught.value.code == "revision_not_found"


def test_another_repo_is_not_there(fake_hub: FakeHub, reporter: Recorder) -> None:
    with pytest.raises(PullFailed, match="The Hub has no model org/other"):
        hub.plan("org/other", None, Choice(), reporter)


def test_a_hub_in_trouble_counts_as_not_to_be_had(fake_hub: FakeHub, reporter: Recorder) -> None:
    fake_hub.status = 500
    with pytest.raises(SourceUnavailable, match="answered 500"):
        hub.plan("org/tiny", None, Choice(), reporter)


def test_no_network(fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(SourceUnavailable, match="cannot be reached") as caught:
        hub.plan("org/tiny", None, Choice(), reporter)
    assert caught.value.code == "hub_unreachable"
    assert str(port) not in caught.value.message


def test_a_hub_that_goes_away_after_the_plan(fake_hub: FakeHub, reporter: Recorder) -> None:
    plan = hub.plan("org/tiny", None, Choice(), reporter)
    fake_hub.status = 503
    with pytest.raises(SourceUnavailable):
        hub.into_cache(plan, reporter)


def test_a_hub_that_accepts_and_says_nothing(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_api, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(SourceUnavailable, match="cannot be reached"):
            hub.plan("org/tiny", None, Choice(), reporter)


def test_offline_mode_is_respected(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnavailable, match="HF_HUB_OFFLINE") as caught:
        hub.plan("org/tiny", None, Choice(), reporter)
    assert caught.value.code == "hub_offline"
    assert fake_hub.tokens == []


def test_a_full_disk_is_noticed_before_the_download(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = hub.plan("org/tiny", None, Choice(), reporter)
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PullFailed, match="free some space"):
        hub.into_cache(plan, reporter)
    assert fake_hub.fetched == []


class TestTheProcess:
    """`pull org/name`, as `samovar pull` starts it."""

    @pytest.fixture
    def environment(self, fake_hub: FakeHub, tmp_path: Path) -> dict[str, str]:
        return {
            **os.environ,
            "HF_ENDPOINT": fake_hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_secret",
            "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        }

    def pull(self, environment: dict[str, str], *arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
        command = [sys.executable, "-m", "samovar_server.downloader.pull", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert "hf_secret" not in done.stdout + done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def test_into_the_cache(self, environment: dict[str, str], tmp_path: Path, fake_hub: FakeHub) -> None:
        status, events = self.pull(environment, "org/tiny")
        path = tmp_path / "home" / "hub" / "models--org--tiny" / "snapshots" / COMMIT
        done = {"event": "done", "name": "org/tiny", "path": str(path), "revision": COMMIT}
        assert (status, events[-1]) == (0, {**done, "already_there": False})
        asked = len(fake_hub.tokens)
        assert "Bearer hf_secret" in fake_hub.tokens
        status, events = self.pull(environment, "org/tiny")
        assert (status, events) == (0, [{**done, "already_there": True}])
        assert len(fake_hub.tokens) == asked

    def test_what_another_tool_fetched_in_part_is_completed(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        _, events = self.pull(environment, "org/tiny")
        tokenizer = Path(events[-1]["path"], "tokenizer.json")
        tokenizer.resolve().unlink()
        tokenizer.unlink()
        status, events = self.pull(environment, "org/tiny")
        assert (status, events[-1]["already_there"], tokenizer.is_file()) == (0, False, True)

    def test_into_a_folder(self, environment: dict[str, str], tmp_path: Path) -> None:
        status, events = self.pull(environment, "org/tiny", "--folder", tmp_path / "models")
        target = tmp_path / "models" / "org" / "tiny"
        assert (status, events[-1]["path"]) == (0, str(target))
        assert {file.name for file in target.iterdir()} == {*WANTED, "samovar.json"}
        assert json.loads((target / "samovar.json").read_text())["revision"] == COMMIT

    def test_what_the_hub_lacks(self, environment: dict[str, str], fake_hub: FakeHub) -> None:
        status, events = self.pull(environment, "org/other")
        assert (status, events[-1]["event"], events[-1]["code"]) == (1, "failed", "repo_not_found")
        assert fake_hub.url not in events[-1]["message"]

    def test_offline(self, environment: dict[str, str]) -> None:
        status, events = self.pull({**environment, "HF_HUB_OFFLINE": "1"}, "org/tiny")
        assert (status, events[-1]["code"]) == (1, "hub_offline")
