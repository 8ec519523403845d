"""vLLM: a script with its command line and its HTTP in its place, and the real one where there is one."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from samovar_server.backends.base import Backend
from samovar_server.backends.registry import Backends
from samovar_server.backends.transformers import TransformersBackend
from samovar_server.backends.vllm import VllmBackend
from samovar_server.errors import (
    BackendUnavailable,
    ContextLengthExceeded,
    InvalidRequest,
    LoadFailed,
    ModelCrashed,
)
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.devices import Memory
from samovar_server.loader.options import LoadOptions, LoadProgress
from samovar_server.relay import Relay
from samovar_server.workbench import Workbench
from tests.fakes.models import FAKE_WORKER, write_model
from tests.processes import children_of, wait_for_end

CHAT = "/v1/chat/completions"
FAKE_VLLM = [sys.executable, str(Path(__file__).parents[2] / "fakes" / "fake_vllm.py")]
VLLM = LoadOptions(backend="vllm")
GB = 10**9
GPU = {"cpu": 100 * GB, "cuda:0": 72 * GB}
Make = Callable[..., Workbench]


def backend(*devices: str, command: list[str] = FAKE_VLLM) -> VllmBackend:
    memory = {device: Memory(80 * GB, 80 * GB) for device in ("cpu", *devices)}
    return VllmBackend(command, ["--enable-auto-tool-choice"], lambda: memory)


@pytest.fixture
def model(tmp_path: Path) -> ResolvedModel:
    return ResolvedModel("m", "org/m", write_model(tmp_path, "m"), "folder", None)


def flags(
    made: VllmBackend, model: ResolvedModel, options: LoadOptions, room: Mapping[str, int]
) -> list[str]:
    return made.spec(made.plan(model, options, room), "s3cret").arguments[len(FAKE_VLLM) + 2 :]


def test_it_is_a_backend(model: ResolvedModel) -> None:
    made: Backend = backend()
    made.check()
    with pytest.raises(BackendUnavailable, match=r"c\.Workbench\.vllm_command"):
        backend(command=[]).check()


def test_what_it_is_started_with_on_a_gpu(model: ResolvedModel) -> None:
    made = backend("cuda:0")
    assert flags(made, model, VLLM, GPU) == [
        *("--host", "127.0.0.1", "--port", "{port}", "--served-model-name", "org/m", "--dtype", "auto"),
        *("--gpu-memory-utilization", "0.9", "--enable-auto-tool-choice"),
    ]
    plan = made.plan(model, VLLM, GPU)
    assert (plan.device, plan.memory.total_bytes) == ("cuda:0", 72 * GB)
    spec = made.spec(plan, "s3cret")
    assert spec.environment == {"CUDA_VISIBLE_DEVICES": "0"}
    assert not [word for word in spec.arguments if "s3cret" in word]
    assert "s3cret" not in repr(spec)


def test_its_own_options_are_passed(model: ResolvedModel) -> None:
    made = backend("cuda:0", "cuda:1")
    room = {**GPU, "cuda:1": 72 * GB}
    asked = LoadOptions(
        max_model_len=128, gpu_memory_utilization=0.25, tensor_parallel_size=2, dtype="float16"
    )
    given = flags(made, model, asked, room)
    for flag, value in (
        ("--max-model-len", "128"),
        ("--gpu-memory-utilization", "0.25"),
        ("--tensor-parallel-size", "2"),
        ("--dtype", "float16"),
    ):
        assert given[given.index(flag) + 1] == value
    assert "--distributed-executor-backend" not in given
    plan = made.plan(model, asked, room)
    assert plan.memory.total_bytes == 20 * GB
    assert made.spec(plan, "s").environment == {}
    assert "tensor_parallel_size=2" in plan.cache_key


def test_more_gpus_than_there_are_here_are_rays(model: ResolvedModel) -> None:
    given = flags(
        backend("cuda:0"), model, LoadOptions(tensor_parallel_size=2, pipeline_parallel_size=4), GPU
    )
    assert given[given.index("--distributed-executor-backend") + 1] == "ray"
    assert given[given.index("--pipeline-parallel-size") + 1] == "4"


def test_a_small_budget_makes_its_share_small(model: ResolvedModel) -> None:
    given = flags(backend("cuda:0"), model, VLLM, {"cpu": 1, "cuda:0": 30 * GB})
    assert given[given.index("--gpu-memory-utilization") + 1] == "0.37"


def test_on_a_cpu(model: ResolvedModel) -> None:
    made = backend()
    plan = made.plan(model, VLLM, {"cpu": 100 * GB})
    assert "--gpu-memory-utilization" not in made.spec(plan, "s").arguments
    assert made.spec(plan, "s").environment == {"VLLM_CPU_KVCACHE_SPACE": "4"}
    assert plan.memory.total_bytes > 4 * GB


def test_a_window_beyond_the_models_is_refused(model: ResolvedModel) -> None:
    with pytest.raises(InvalidRequest, match="window has 256 tokens"):
        backend().plan(model, LoadOptions(max_model_len=257), {"cpu": GB})


def test_what_is_too_large_for_our_engine_is_for_a_vllm_that_is_set_up(tmp_path: Path) -> None:
    path = write_model(tmp_path, "big", num_hidden_layers=10**6)
    model = ResolvedModel("big", "big", path, "folder", None)
    own = TransformersBackend(command=FAKE_WORKER, slots=1, max_queue=1, conversions=tmp_path)
    room = {"cpu": 10 * GB}
    plan = Backends([own, backend()]).plan(model, LoadOptions(), room)
    assert plan.backend == "vllm"
    assert "more than the 10.0 GB that models may take of cpu, and vLLM is set up" in plan.reason
    assert Backends([own, backend(command=[])]).plan(model, LoadOptions(), room).backend == "transformers"
    assert Backends([own, backend()]).plan(model, LoadOptions(quantization="int4"), room).backend == (
        "transformers"
    )


@pytest.fixture
def make(tmp_path: Path, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[Make]:
    made: list[Workbench] = []

    def make_one(command: list[str] = FAKE_VLLM, folder: Path = tmp_path) -> Workbench:
        made.append(Workbench(model_folders=[str(folder)], spare_worker=False, vllm_command=command))
        return made[-1]

    yield make_one
    for workbench in made:
        jp_asyncio_loop.run_until_complete(workbench.stop())
    assert not children_of(os.getpid())


async def ask(workbench: Workbench, **fields: Any) -> bytes:
    body = {"model": "alias", "messages": [{"role": "user", "content": "hi"}], "ttl": 9, **fields}
    relay = Relay()
    try:
        async with (
            workbench.acquire("m", VLLM, route=CHAT, fields=frozenset(fields)) as lease,
            relay.post(lease, CHAT, json.dumps(body).encode()) as answer,
        ):
            return await answer.body()
    finally:
        await relay.close()


async def told(workbench: Workbench) -> dict[str, Any]:
    answer = json.loads(await ask(workbench))
    content: dict[str, Any] = json.loads(answer["choices"][0]["message"]["content"])
    return content


@pytest.mark.usefixtures("model")
async def test_a_model_is_loaded_asked_and_unloaded_with_all_its_processes(make: Make) -> None:
    workbench = make()
    steps: list[LoadProgress] = []
    record = await workbench.load("m", VLLM, on_progress=steps.append)
    assert (record.backend, record.context_length, record.backend_reason) == ("vllm", 256, "it was asked for")
    assert 0.5 in [step.fraction for step in steps]
    started = await told(workbench)
    assert started["body"] == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert started["argv"][:2] == ["serve", record.model_path]
    assert (await ask(workbench, stream=True)).endswith(b"data: [DONE]\n\n")
    with pytest.raises(ContextLengthExceeded, match="vLLM: This model's maximum context length"):
        await ask(workbench, max_tokens=1000)
    with pytest.raises(InvalidRequest, match="exact: backend vllm"):
        await ask(workbench, exact=True)
    await workbench.unload("m")
    wait_for_end(started["helper"])


async def test_a_load_that_fails_tells_the_cause(make: Make, model: ResolvedModel) -> None:
    (model.path / "vllm.json").write_text('{"fail": "No room for the KV cache."}')
    with pytest.raises(
        LoadFailed, match=r"m could not be loaded: ValueError: No room for the KV cache\. See"
    ):
        await make().load("m", VLLM)
    with pytest.raises(LoadFailed, match="cannot be started"):
        await make(["/no/such/vllm"]).load("m", VLLM)


@pytest.mark.usefixtures("model")
async def test_a_crash_is_noticed_and_leaves_nothing(make: Make) -> None:
    workbench = make()
    await workbench.load("m", VLLM)
    started = await told(workbench)
    (worker,) = children_of(os.getpid())
    (server,) = children_of(worker)
    async with workbench.acquire("m", VLLM) as lease:
        os.kill(server, signal.SIGKILL)
        await asyncio.to_thread(wait_for_end, worker)
        await asyncio.to_thread(wait_for_end, started["helper"])
        assert isinstance(lease.failure(), ModelCrashed)


@pytest.mark.usefixtures("model")
async def test_it_ends_with_the_samovar_server(tmp_path: Path) -> None:
    code = f"""
import asyncio
from samovar_server.loader.options import LoadOptions
from samovar_server.workbench import Workbench
async def main():
    workbench = Workbench(model_folders=[{str(tmp_path)!r}], spare_worker=False, vllm_command={FAKE_VLLM!r})
    await workbench.load("m", LoadOptions(backend="vllm"))
    print("loaded", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    samovar = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert samovar.stdout is not None
    assert await samovar.stdout.readline() == b"loaded\n"
    (worker,) = children_of(samovar.pid)
    (server,) = children_of(worker)
    (helper,) = children_of(server)
    samovar.kill()
    await samovar.wait()
    for pid in (worker, server, helper):
        await asyncio.to_thread(wait_for_end, pid)


@pytest.mark.real
async def test_a_real_vllm(make: Make, demo_model: Path) -> None:
    command = os.environ.get("SAMOVAR_TEST_VLLM")
    if not command:
        pytest.skip("no vLLM here: set SAMOVAR_TEST_VLLM to its command to test against it")
    workbench = make(shlex.split(command), demo_model.parent)
    options = LoadOptions(backend="vllm", max_model_len=512)
    record = await workbench.load("demo", options)
    assert record.context_length == 512
    relay = Relay()
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
    async with (
        workbench.acquire("demo", options, route=CHAT) as lease,
        relay.post(lease, CHAT, json.dumps(body).encode()) as answer,
    ):
        assert json.loads(await answer.body())["choices"][0]["message"]["content"]
    await relay.close()
