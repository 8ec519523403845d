"""llama.cpp behind the workbench, on the demo model's GGUF file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samovar_server.errors import ContextLengthExceeded, InvalidRequest, LoadFailed
from samovar_server.loader.options import LoadOptions
from samovar_server.relay import Relay
from samovar_server.workbench import Workbench
from tests.processes import children_of, wait_for_end

pytestmark = pytest.mark.real

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
OPTIONS = LoadOptions(n_ctx=512)


@pytest.fixture(scope="module")
def folder(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "q").mkdir()
    os.link(demo_gguf, folder / "q" / demo_gguf.name)
    (folder / "broken").mkdir()
    (folder / "broken/m.Q4_1.gguf").write_bytes(demo_gguf.read_bytes()[:10_000_000])
    return folder


@pytest.fixture
def workbench(folder: Path, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[Workbench]:
    workbench = Workbench(model_folders=[str(folder)], slots=4, spare_worker=False)
    yield workbench
    jp_asyncio_loop.run_until_complete(workbench.stop())
    assert not children_of(os.getpid())


async def ask(workbench: Workbench, **fields: Any) -> Any:
    body = {"model": "q", "messages": MESSAGES, "temperature": 0, "max_tokens": 8, **fields}
    asked = frozenset(fields) - {"stream"}
    relay = Relay()
    try:
        async with (
            workbench.acquire("q", OPTIONS, route=CHAT, fields=asked) as lease,
            relay.post(lease, CHAT, json.dumps(body).encode()) as answer,
        ):
            return await answer.body()
    finally:
        await relay.close()


async def test_a_gguf_file_answers_and_is_told_of_and_leaves(workbench: Workbench) -> None:
    answer = json.loads(await ask(workbench, n=2, logprobs=True, top_logprobs=2))
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts[0]
    assert texts[0] == texts[1]
    assert answer["model"] == "q:Q4_1"  # and not where the file lies
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2

    stream = (await ask(workbench, stream=True)).decode()
    pieces = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for piece in pieces for choice in piece["choices"]]  # the usage has none
    assert "".join(delta.get("content") or "" for delta in deltas) == texts[0]
    assert stream.endswith("data: [DONE]\n\n")

    (record,) = workbench.loaded()
    assert (record.backend, record.quantization, record.context_length) == ("llamacpp", "Q4_1", 512)
    assert record.backend_reason == "llama.cpp is what loads a GGUF file"
    assert 100e6 < record.memory_bytes < 1e9

    with pytest.raises(ContextLengthExceeded, match=r"llama\.cpp: request \(\d+ tokens\) exceeds"):
        await ask(workbench, messages=[{"role": "user", "content": "word " * 600}])
    with pytest.raises(InvalidRequest, match="tools: backend llamacpp") as caught:
        await ask(workbench, tools=[{}])
    assert caught.value.param == "tools"
    await workbench.unload("q")
    assert not children_of(os.getpid())


async def test_what_a_request_leaves_out_is_sampled_as_the_api_says(workbench: Workbench) -> None:
    """llama.cpp's own defaults would keep the 40 likeliest tokens at temperature 0.8."""
    fields: dict[str, Any] = {"temperature": 1.0, "max_tokens": 12, "seed": 5}
    plain = json.loads(await ask(workbench, **fields))
    stated = json.loads(await ask(workbench, **fields, top_p=1.0, top_k=-1, min_p=0.0))
    other = json.loads(await ask(workbench, **fields, top_k=40, min_p=0.05))
    texts = [answer["choices"][0]["message"]["content"] for answer in (plain, stated, other)]
    assert texts[0] == texts[1] != texts[2]


async def test_a_damaged_file_is_a_failed_load(workbench: Workbench) -> None:
    with pytest.raises(LoadFailed, match=r"broken:Q4_1 could not be loaded by llama\.cpp"):
        await workbench.load("broken", OPTIONS)


async def test_the_worker_ends_with_its_server(folder: Path) -> None:
    """Killed, as the system does it, the server can do nothing about its workers."""
    code = f"""
import asyncio, os
from samovar_server.loader.options import LoadOptions
from samovar_server.workbench import Workbench
async def main():
    workbench = Workbench(model_folders=[{str(folder)!r}], slots=1, spare_worker=False)
    await workbench.load("q", LoadOptions(n_ctx=128))
    print("loaded", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    assert await server.stdout.readline() == b"loaded\n"
    (worker,) = children_of(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()
    wait_for_end(worker)
