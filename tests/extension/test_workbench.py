"""The whole way from a model's name to its worker, with real processes of the fake worker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants
from traitlets import TraitError
from traitlets.config import Config

from samovar_server.callers import OWNER, Caller
from samovar_server.errors import (
    BackendUnavailable,
    HubUnavailable,
    InsufficientMemory,
    InvalidRequest,
    LoadFailed,
    ModelCrashed,
    ModelNotFound,
    ModelUnloaded,
    PermissionDenied,
    QueueFull,
)
from samovar_server.loader.options import LoadOptions, LoadProgress
from samovar_server.protocol.adapters import ADAPTER_HEADER, AdapterFolder
from samovar_server.protocol.place import PLACE_HEADER, Place
from samovar_server.sharing import Demand
from samovar_server.workbench import Lease, Workbench
from tests.fakes.folders import make_adapter
from tests.fakes.models import FAKE_WORKER, FakeScript, write_model
from tests.processes import children_of, is_running

ANY = LoadOptions()
Make = Callable[..., Workbench]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, and an empty Hugging Face cache."""
    for module in ("constants", "utils._cache_manager"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "models"


@pytest.fixture
def make(folder: Path, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[Make]:
    """Makes workbenches that start fake workers; they are stopped at the end."""
    made: list[Workbench] = []

    def make_one(**traits: Any) -> Workbench:
        given = {"model_folders": [str(folder)], "worker_command": FAKE_WORKER, "spare_worker": False}
        made.append(Workbench(**{**given, **traits}))
        return made[-1]

    yield make_one
    for workbench in made:
        jp_asyncio_loop.run_until_complete(workbench.stop())


@pytest.fixture
def workbench(make: Make) -> Workbench:
    return make()


async def ask(lease: Lease, *, stream: bool = False) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "one two"}], "stream": stream}
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {lease.secret}"}, timeout=60) as client:
        return await client.post(f"{lease.url}/v1/chat/completions", json=body)


async def test_a_model_is_loaded_by_its_first_request_and_answers(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "org/m")
    steps: list[LoadProgress] = []
    async with workbench.acquire("org/m", ANY, on_progress=steps.append) as lease:
        answer = (await ask(lease)).json()
        assert answer["choices"][0]["message"]["content"] == "one two"
        assert answer["model"] == lease.model.model == "org/m"
        assert workbench.loaded()[0].in_flight == 1
    assert [step.fraction for step in steps] == sorted(step.fraction for step in steps)
    assert steps[-1] == LoadProgress("ready", 1.0, bytes_done=100, bytes_total=100)
    stats = workbench.stats()
    assert (stats.total_requests_served, stats.total_models_loaded) == (1, 1)
    assert stats.estimated_cpu_memory_mb == 1.0  # what the worker told
    assert stats.memory[0].device == "cpu"
    assert stats.memory[0].used_bytes == 10**6


async def test_only_who_knows_the_secret_may_ask_the_worker(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m")
    async with workbench.acquire("m", ANY) as lease:
        lease.secret = "guessed"
        assert (await ask(lease)).status_code == 401


async def test_the_default_model_and_aliases(make: Make, folder: Path) -> None:
    write_model(folder, "org/m")
    workbench = make(default_model="mine", aliases={"mine": "org/m"})
    assert (await workbench.load(None, ANY)).model == "org/m"
    async with workbench.acquire("mine", ANY) as lease:
        assert lease.model.model == "org/m"
    assert workbench.stats().cache_hits == 1


async def test_models_lists_what_is_on_disk_and_says_what_is_in_memory(
    workbench: Workbench, folder: Path
) -> None:
    write_model(folder, "org/a")
    write_model(folder, "b")
    await workbench.load("b", ANY)
    cards = await workbench.models()
    assert [(card.id, card.owned_by, card.loaded) for card in cards] == [
        ("b", "local", True),
        ("org/a", "org", False),
    ]
    assert all(0 < card.created <= time.time() for card in cards)


async def test_a_kill_in_the_middle_of_an_answer_is_a_typed_error_and_the_next_request_works(
    workbench: Workbench, folder: Path
) -> None:
    write_model(folder, "m", FakeScript(crash_after_tokens=1))
    async with workbench.acquire("m", ANY) as lease:
        with pytest.raises(httpx.HTTPError):
            await ask(lease, stream=True)
        assert isinstance(lease.failure(), ModelCrashed)
        write_model(folder, "m")
        async with workbench.acquire("m", ANY) as other:
            assert (await ask(other)).status_code == 200


async def test_a_worker_that_is_killed_while_idle_is_noticed(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m")
    others = children_of(os.getpid())
    async with workbench.acquire("m", ANY) as lease:
        (worker,) = children_of(os.getpid()) - others
        os.kill(worker, signal.SIGKILL)
        start = time.monotonic()
        while workbench.loaded()[0].state != "failed":
            assert time.monotonic() - start < 30
            await asyncio.sleep(0.01)
        assert isinstance(lease.failure(), ModelCrashed)
    assert "SIGKILL" in (workbench.loaded()[0].error or "")
    assert workbench.stats().estimated_cpu_memory_mb == 0
    assert (await workbench.load("m", ANY)).state == "ready"


async def test_a_load_that_fails_says_why(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m", FakeScript(fail="the weights are damaged"))
    with pytest.raises(LoadFailed, match="the weights are damaged"):
        await workbench.load("m", ANY)
    assert [(model.state, model.error) for model in workbench.loaded()] == [
        ("failed", "the weights are damaged")
    ]


async def test_a_model_that_is_nowhere(workbench: Workbench) -> None:
    with pytest.raises(ModelNotFound):
        await workbench.load("org/nowhere", ANY)
    with pytest.raises(InvalidRequest):
        async with workbench.acquire("../../etc", ANY):
            raise AssertionError("never")
    assert workbench.loaded() == []


async def test_what_the_machine_or_the_model_cannot_do(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m")
    with pytest.raises(InvalidRequest, match="256 tokens"):
        await workbench.load("m", LoadOptions(context_length=1000))
    assert workbench.loaded() == []


async def test_a_model_beyond_the_budget(make: Make, folder: Path) -> None:
    write_model(folder, "m")
    with pytest.raises(InsufficientMemory, match=r"m needs about 0\.5 GB"):
        await make(cpu_memory_budget=10**6).load("m", ANY)


async def test_an_estimate_loads_nothing(make: Make, folder: Path) -> None:
    write_model(folder, "m")
    workbench = make(cpu_memory_budget=10**9)
    estimate = await workbench.estimate("m", LoadOptions(context_length=100))
    assert (estimate.fits, estimate.source, estimate.device) == (True, "disk", "cpu")
    assert estimate.weights_bytes == 1001 * 64 * 4
    assert (estimate.context_length, estimate.kv_tokens) == (100, 1600)
    assert (estimate.free_bytes, estimate.budget_bytes) == (10**9, 10**9)
    stated = await workbench.estimate("m", LoadOptions(memory_bytes=10**10))
    assert (stated.fits, stated.total_bytes, stated.longest_context) == (False, 10**10, None)
    assert workbench.loaded() == []


async def test_who_knows_better_than_the_estimate_may_load(make: Make, folder: Path) -> None:
    write_model(folder, "m")
    workbench = make(cpu_memory_budget=10**7)
    with pytest.raises(InsufficientMemory, match="set memory_bytes"):
        await workbench.load("m", ANY)
    assert (await workbench.load("m", LoadOptions(memory_bytes=10**6))).state == "ready"


async def test_an_estimate_before_the_download_needs_the_hub(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("org/nowhere", "org/nowhere:Q4_K_M"):
        with pytest.raises(HubUnavailable, match=rf"{name} is not on this machine\. HF_HUB_OFFLINE"):
            await workbench.estimate(name, ANY)


async def test_what_the_settings_want_is_loaded_at_the_start_and_pinned(
    make: Make, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(folder, "m")
    write_model(folder, "org/n")
    workbench = make(preload=["m", "org/nowhere", "other"], pins=["other"], aliases={"other": "org/n"})
    await workbench.start()
    while [record.state for record in workbench.loaded()] != ["ready", "ready"]:
        assert await workbench.events.wait(workbench.events.newest, 30)
    assert [(record.model, record.pinned) for record in workbench.loaded()] == [("m", False), ("org/n", True)]
    assert "c.Workbench.preload: Model 'org/nowhere' is not on this machine" in caplog.text


async def test_a_worker_that_answers_nothing_any_more_is_ended_and_its_request_told(
    make: Make, folder: Path
) -> None:
    write_model(folder, "m", FakeScript(stop_after_tokens=1))
    workbench = make(hang_timeout=1.0)
    async with workbench.acquire("m", ANY) as lease:
        with pytest.raises(httpx.HTTPError):
            await ask(lease, stream=True)
        assert isinstance(lease.failure(), ModelCrashed)
        assert "hung" in lease.failure().message
    write_model(folder, "m")
    async with workbench.acquire("m", ANY) as lease:
        assert (await ask(lease)).status_code == 200


async def test_without_torch_the_answer_says_what_to_install(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("samovar_server.backends.transformers.find_spec", lambda name: None)
    write_model(folder, "m")
    workbench = make(worker_command=[], spare_worker=True)
    await workbench.start()
    assert "samovar[local]" in caplog.text
    with pytest.raises(BackendUnavailable, match=r"pip install 'samovar\[local\]'"):
        await workbench.load("m", ANY)


@pytest.mark.parametrize("name", ["short", "org/m", "m"])
async def test_unload_by_any_name(make: Make, folder: Path, name: str) -> None:
    write_model(folder, "org/m")
    write_model(folder, "other")
    workbench = make(aliases={"short": "org/m"})
    await workbench.load("org/m", ANY)
    await workbench.load("other", ANY)
    if name == "m":
        shutil.move(folder / "org" / "m", folder / "m")
        await workbench.unload("org/m")  # it is in memory, and on the disk no more
        await workbench.load("m", ANY)
    unloaded = await workbench.unload(name)
    assert [(model.state, model.in_flight) for model in unloaded] == [("stopped", 0)]
    assert [model.model for model in workbench.loaded()] == ["other"]
    assert [model.model for model in await workbench.unload_all()] == ["other"]


async def test_unload_only_if_it_is_so_held(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m")
    await workbench.load("m", ANY)
    with pytest.raises(ModelNotFound, match="Models in memory: m"):
        await workbench.unload("m", device="cuda")
    with pytest.raises(ModelNotFound, match="Models in memory: m"):
        await workbench.unload("m", backend="llamacpp")
    assert await workbench.unload("m", device="cpu", backend="transformers")
    with pytest.raises(ModelNotFound, match="Models in memory: none"):
        await workbench.unload("m")


async def test_unload_now_ends_an_answer_with_a_typed_error(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m", FakeScript(hang_after_tokens=1))
    async with workbench.acquire("m", ANY) as lease:
        answer = asyncio.create_task(ask(lease))
        await workbench.unload("m", mode="now")
        with pytest.raises(httpx.HTTPError):
            await answer
        assert isinstance(lease.failure(), ModelUnloaded)


async def test_other_options_replace_the_copy(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m")
    await workbench.load("m", ANY)
    loaded = await workbench.load("m", LoadOptions(dtype="bfloat16", context_length=100))
    assert (loaded.dtype, loaded.context_length) == ("bfloat16", 100)
    assert len(workbench.loaded()) == 1
    async with workbench.acquire("m", ANY) as lease:
        assert lease.model.dtype == "bfloat16"


async def test_stop_ends_every_process_and_what_waits(make: Make, folder: Path) -> None:
    workbench = make(spare_worker=True)
    await workbench.start()
    write_model(folder, "m")
    write_model(folder, "slow", FakeScript(hang_while_loading=True))
    loading = asyncio.Event()

    def report(step: LoadProgress) -> None:
        if step.phase == "weights":
            loading.set()

    async with workbench.acquire("m", ANY) as lease:
        waiting = asyncio.create_task(workbench.load("slow", ANY, on_progress=report))
        await loading.wait()
        children = children_of(os.getpid())
        assert len(children) >= 2
        await workbench.stop()
        assert children_of(os.getpid()) & children == set()
        assert isinstance(lease.failure(), ModelUnloaded)
        with pytest.raises(ModelUnloaded):
            await waiting
    await workbench.stop()


PARENT = """
import asyncio, json, sys
from samovar_server.loader.options import LoadOptions
from samovar_server.workbench import Workbench

async def main():
    workbench = Workbench(model_folders=[sys.argv[1]], worker_command=json.loads(sys.argv[2]))
    await workbench.start()
    await workbench.load("m", LoadOptions())
    await workbench.load("n", LoadOptions())
    assert not {"torch", "transformers"} & set(sys.modules)
    print("loaded", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_server(folder: Path, end: signal.Signals) -> None:
    write_model(folder, "m")
    write_model(folder, "n")
    command = [sys.executable, "-c", PARENT, str(folder), json.dumps(FAKE_WORKER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"loaded\n"
        workers = children_of(server.pid)
        assert len(workers) == 3  # two models and the spare
        server.send_signal(end)
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_settings_come_from_jupyters_configuration_and_are_checked(tmp_path: Path) -> None:
    config = Config({"Workbench": {"default_ttl": 5.0, "slots": 3, "model_folders": [str(tmp_path)]}})
    workbench = Workbench(config=config)
    assert (workbench.default_ttl, workbench.slots, workbench.model_folders) == (5.0, 3, [str(tmp_path)])
    for wrong in ({"default_ttl": -0.5}, {"slots": 0}, {"load_timeout": 0.0}, {"cpu_memory_budget": -1}):
        with pytest.raises(TraitError):
            Workbench(**wrong)


def test_every_setting_says_what_it_does() -> None:
    assert all(trait.help for trait in Workbench.class_own_traits(config=True).values())


def test_models_lie_in_jupyters_data_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", "/data")
    assert Workbench().model_folders == ["/data/samovar/models"]


def demand(model: str) -> Demand:
    return Demand(model, sequences=1, prompt_tokens=1)


CHAT_ROUTE: dict[str, Any] = {"route": "/v1/chat/completions", "fields": frozenset()}


async def test_a_user_gets_his_models_by_any_of_their_names_and_no_others(make: Make, folder: Path) -> None:
    for name in ("org/mine", "org/theirs"):
        write_model(folder, name)
    sharing = {"limits": {"*": {"models": ["short"]}}, "contact": "the lab"}
    workbench = make(
        config=Config({"Sharing": sharing}), aliases={"short": "org/mine", "other": "org/theirs"}
    )
    ada = Caller("ada")
    for name in ("short", "org/mine", str(folder / "org/mine")):
        async with workbench.serve(ada, demand(name), ANY, **CHAT_ROUTE) as (lease, _):
            assert lease.model.model == "org/mine"
    for name in ("other", "org/theirs", str(folder / "org/theirs")):
        with pytest.raises(PermissionDenied, match=r"models for you: short\. Ask the lab"):
            await workbench.serve(ada, demand(name), ANY, **CHAT_ROUTE).__aenter__()
        with pytest.raises(PermissionDenied):
            await workbench.require_load(ada, name, ANY, ttl=None)


async def test_without_the_right_to_load_what_is_in_memory_may_be_used_as_it_is(
    make: Make, folder: Path
) -> None:
    write_model(folder, "org/m")
    workbench = make(config=Config({"Sharing": {"roles": {"load": ["admins"]}}}))
    ada = Caller("ada")
    with pytest.raises(PermissionDenied, match="load models, and org/m is not in memory"):
        await workbench.require_load(ada, "org/m", ANY, ttl=None)
    await workbench.require_load(OWNER, "org/m", ANY, ttl=5)
    await workbench.load("org/m", ANY)
    async with workbench.serve(ada, demand("org/m"), ANY, **CHAT_ROUTE):
        pass
    with pytest.raises(PermissionDenied):
        await workbench.require_load(ada, "org/m", LoadOptions(dtype="bfloat16"), ttl=None)


async def test_who_waits_for_a_turn_is_counted_as_waiting_by_records_stats_and_events(
    make: Make, folder: Path
) -> None:
    write_model(folder, "org/m")
    workbench = make(slots=1, max_queue=0, shared=True, config=Config({"Sharing": {"reserved_slots": 1}}))
    ada, bob = Caller("ada"), Caller("bob")
    async with (
        workbench.serve(ada, demand("org/m"), ANY, **CHAT_ROUTE) as (first, _),
        workbench.serve(bob, demand("org/m"), ANY, **CHAT_ROUTE) as (second, _),
    ):
        assert (first.slots, first.reserve) == (1, 1)
        places = [Place.of_header(lease.headers[PLACE_HEADER]) for lease in (first, second)]
        assert [place.express for place in places] == [False, True]
        with pytest.raises(QueueFull):
            await workbench.serve(ada, demand("org/m"), ANY, **CHAT_ROUTE).__aenter__()
        waits = asyncio.Event()

        def on_progress(progress: LoadProgress) -> None:
            waits.set()

        workbench.sharing._turns._max_queue = 1

        async def wait_for_a_turn() -> None:
            async with workbench.serve(ada, demand("org/m"), ANY, on_progress=on_progress, **CHAT_ROUTE):
                pass

        waiting = asyncio.create_task(wait_for_a_turn())
        await waits.wait()
        (record,) = workbench.loaded()
        (engine,) = await workbench.engines()
        assert (record.in_flight, record.queued, engine.waiting) == (2, 1, 1)
    await waiting
    (record,) = workbench.loaded()
    assert (record.in_flight, record.queued) == (0, 0)


async def test_adapters_share_the_resident_base(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "org/m")
    for name in ("one", "two"):
        make_adapter(folder / "me" / name, base="org/m")
    async with (
        workbench.acquire("org/m", ANY) as base,
        workbench.acquire("org/m+me/one", ANY) as one,
        workbench.acquire("org/m+me/two", ANY, route="/v1/completions") as two,
    ):
        assert base.url == one.url == two.url
        assert [AdapterFolder.of_header(lease.headers.get(ADAPTER_HEADER)) for lease in (base, one, two)] == [
            None,
            AdapterFolder("me/one", str(folder / "me/one")),
            AdapterFolder("me/two", str(folder / "me/two")),
        ]
        (resident,) = workbench.loaded()
        assert (resident.model, resident.in_flight) == ("org/m", 3)
    assert (await workbench.load("org/m+me/one", ANY)).model == "org/m"
    assert (await workbench.estimate("org/m+me/one", ANY)).model == "org/m"
    cards = {card.id: card.loaded for card in await workbench.models()}
    assert cards == {"org/m": True, "org/m+me/one": True, "org/m+me/two": True}


async def test_an_adapter_that_is_not_there_loads_nothing(workbench: Workbench, folder: Path) -> None:
    write_model(folder, "m")
    make_adapter(folder / "style")
    with pytest.raises(ModelNotFound, match="There is: style"):
        async with workbench.acquire("m+stile", ANY):
            pass
    with pytest.raises(InvalidRequest, match=r"m: embeddings are made without adapters. Leave out \+style"):
        async with workbench.acquire("m+style", ANY, route="/v1/embeddings"):
            pass
    assert not workbench.loaded()


async def test_limits_are_for_a_model_with_its_adapter(make: Make, folder: Path) -> None:
    write_model(folder, "org/m")
    for name in ("one", "two"):
        make_adapter(folder / name)
    limits = {
        "*": {"models": ["short"]},
        "user:bob": {"models": ["short+one"]},
        "user:eve": {"models": ["mine"]},
    }
    sharing = {"limits": limits, "roles": {"load": ["admins"]}}
    aliases = {"short": "org/m", "mine": "org/m+two"}
    workbench = make(config=Config({"Sharing": sharing}), aliases=aliases)
    for name in ("short", "org/m"):
        await workbench.load(name, ANY)
    may = {"ada": ["short", "org/m"], "bob": ["org/m+one", "short+one"], "eve": ["mine", "short+two"]}
    for user, models in may.items():
        for model in ("short", "org/m", "short+one", "org/m+one", "mine", "short+two"):
            asked = workbench.serve(Caller(user), demand(model), ANY, **CHAT_ROUTE)
            if model in models:
                async with asked as (lease, _):
                    assert (ADAPTER_HEADER in lease.headers) is (user != "ada")
            else:
                with pytest.raises(PermissionDenied):
                    await asked.__aenter__()


async def test_other_backends_refuse_adapters(make: Make, folder: Path) -> None:
    write_model(folder, "m")
    make_adapter(folder / "style")
    workbench = make(vllm_command=[sys.executable])
    with pytest.raises(InvalidRequest, match=r"m: backend vllm \(.*\) takes no adapters. Leave out \+style"):
        await workbench.load("m+style", LoadOptions(backend="vllm", device="cpu"))
    assert not workbench.loaded()
