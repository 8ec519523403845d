"""What only a GPU can tell; skipped without one. How to run it on a machine that is lent: CONTRIBUTING.md."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samovar_server.engine.adapters import Adapters
from samovar_server.engine.graphs import cuda_capture
from samovar_server.engine.loading import LoadedWeights, load
from samovar_server.engine.runner import Runner
from samovar_server.engine.serving import Serving, prepare
from tests.extension.engine.test_architectures import continued, generated, prompts
from tests.extension.engine.tiny_models import IN_SLOTS, write

pytestmark = [
    pytest.mark.usefixtures("quiet_and_small"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

GPU = torch.device("cuda:0")
MIXTURES = ("deepseek-v3", "gpt-oss", "mixtral", "qwen2-moe", "qwen3-moe")


def load_on_gpu(folder: Path, name: str, dtype: str, quantization: str = "none") -> LoadedWeights:
    spec = replace(write(folder, name), device=str(GPU), dtype=dtype, quantization=quantization)
    return load(spec, lambda fraction: None)


@pytest.mark.parametrize("name", IN_SLOTS)
def test_float32_gives_what_generate_gives(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_on_gpu(tmp_path, name, "float32")
    assert loaded.in_slots
    requests = prompts()
    sequences = continued(Runner(loaded.model, 8, 512, capture=cuda_capture(GPU)), requests)
    assert [sequence.output for sequence in sequences] == generated(tmp_path, requests)
    if name not in MIXTURES:  # which may ask the GPU where tokens were routed to
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_graphs_give_the_logits_of_steps_without_in_bfloat16(name: str, tmp_path: Path) -> None:
    model = load_on_gpu(tmp_path, name, "bfloat16").model
    plain, graphed = Runner(model, 4, 512), Runner(model, 4, 512, capture=cuda_capture(GPU))
    prompt = prompts()[1]
    for runner in (plain, graphed):
        runner.prefill(0, prompt, 0)
        runner.prefill(2, prompt[:5], 0)
    for step in range(6):
        arguments = [0, 2], [7 + step, 8], [len(prompt) + step, 5 + step]
        expected, got = plain.decode(*arguments).float(), graphed.decode(*arguments).float()
        assert (got - expected).abs().max() < 0.1 * expected.std()


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantised_models_decode(quantization: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = load_on_gpu(tmp_path, "llama", "bfloat16", quantization).model
    sequences = continued(Runner(model, 8, 512, capture=cuda_capture(GPU)), prompts())
    assert all(len(sequence.output) == 10 for sequence in sequences)


def test_a_worker_tells_the_truth_about_its_gpu(tmp_path: Path) -> None:
    spec = replace(write(tmp_path, "llama"), device=str(GPU), dtype="bfloat16")
    serving = prepare(spec, lambda phase, fraction: None)
    assert isinstance(serving, Serving)
    assert (serving.device, serving.dtype) == ("cuda:0", "bfloat16")
    assert "cuda:0" in str(serving.inexact_because)
    free, total = torch.cuda.mem_get_info(GPU)
    assert math.isclose(serving.memory_bytes(), total - free, rel_tol=0.5)
    assert Adapters(serving.runner.model) is not None
