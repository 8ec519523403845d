"""The GPU's way, as far as it can be tested where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from samovar_server.engine import gpu
from samovar_server.engine.runner import Runner
from samovar_server.engine.serving import Serving, prepare
from tests.extension.engine.test_architectures import continued, prompts
from tests.extension.engine.tiny_models import IN_SLOTS, write

pytestmark = pytest.mark.usefixtures("quiet_and_small")

CUDA_CALLS = (
    *(
        "_lazy_init",
        "init",
        "set_device",
        "synchronize",
        "empty_cache",
        "memory_reserved",
        "memory_allocated",
    ),
    *("graph_pool_handle", "current_stream", "stream", "graph", "Stream", "CUDAGraph", "set_sync_debug_mode"),
)


def test_steps_mix_no_devices_and_ask_the_device_for_no_number() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.extension.engine.stand_in_gpu"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout) == dict.fromkeys(IN_SLOTS)


def test_without_a_gpu_nothing_of_cuda_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(tmp_path, "llama")

    def called(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("CUDA was called on a machine without it")

    for name in CUDA_CALLS:
        monkeypatch.setattr(torch.cuda, name, called)
    serving = prepare(spec, lambda phase, fraction: None)
    assert isinstance(serving, Serving)
    assert isinstance(serving.runner, Runner)
    assert all(sequence.output for sequence in continued(serving.runner, prompts()[:2]))
    assert serving.memory_bytes() > 0
    assert not torch.cuda.is_initialized()


def test_a_worker_settles_on_its_gpu_and_counts_what_others_see(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:1")
    settled: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", settled.append)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", settled.append)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {device: 1000}.__getitem__)
    gpu.settle_on(device)
    assert settled == [device, False]
    assert gpu.taken_bytes(device) == 1000 + gpu.CONTEXT_BYTES
