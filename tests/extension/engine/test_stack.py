"""Steps of few tokens are computed by one script, to the bits that layer after layer gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from samovar_server.engine.kernels.jit import has_threads
from samovar_server.engine.kernels.script import Script
from samovar_server.engine.runner import Runner
from samovar_server.engine.stack import MOST_TOKENS, Stack
from samovar_server.engine.step import Logits, NewToken, Piece
from tests.extension.engine.test_architectures import load_tiny, random_tokens

pytestmark = pytest.mark.skipif(not has_threads(), reason="layers are computed one by one here")

SLOTS, CONTEXT = 6, 600


def stack_of(model: Any) -> Stack:
    stacks = {layer.forward.stack for layer in model.model.layers}
    (stack,) = stacks
    assert isinstance(stack, Stack)
    return stack


def one_by_one(model: Any) -> None:
    for layer in model.model.layers:
        layer.forward.stack = None


def history(runner: Runner, steps: int, seed: int) -> Tensor:
    """Logits of random steps: prompts in pieces, new tokens, drafts; the cache grows in rows and length."""
    rng = random.Random(seed)
    filled = [0] * SLOTS
    logits = []
    for _ in range(steps):
        tokens, pieces = [], []
        for slot in rng.sample(range(SLOTS), rng.randrange(1, SLOTS)):
            if filled[slot] == 0 or rng.random() < 0.2:
                prompt = random_tokens(rng, rng.choice([1, 2, 30, MOST_TOKENS, 100]))
                pieces.append(Piece(slot, prompt, filled[slot], Logits.EVERY))
                filled[slot] += len(prompt)
            else:
                tokens += [
                    NewToken(slot, rng.randrange(50), filled[slot] + ahead, None, ahead) for ahead in (0, 1)
                ]
                filled[slot] += rng.choice([1, 2])
            if filled[slot] > CONTEXT - 110:
                filled[slot] = 0
        tokens.sort(key=lambda token: token.ahead)
        logits.append(runner.run(tokens, pieces))
    return torch.cat(logits)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Script]:
    """The scripts that were run."""
    scripts: list[Script] = []
    run = Script.run

    def counted(script: Script) -> None:
        scripts.append(script)
        run(script)

    monkeypatch.setattr(Script, "run", counted)
    return scripts


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2-window"])
def test_a_stack_gives_the_bits_that_its_layers_give_one_by_one(
    name: str, tmp_path: Path, ran: list[Script]
) -> None:
    model = load_tiny(tmp_path, name).model
    ran.clear()
    stacked = [
        history(Runner(model, SLOTS, CONTEXT), 120, seed) for seed in (0, 1)
    ]  # each with its own cache
    assert len(ran) > 150
    one_by_one(model)
    for seed, logits in enumerate(stacked):
        assert torch.equal(history(Runner(model, SLOTS, CONTEXT), 120, seed), logits)


def test_a_script_is_written_once_for_as_many_tokens(tmp_path: Path, ran: list[Script]) -> None:
    runner = Runner(load_tiny(tmp_path, "llama").model, SLOTS, CONTEXT)
    runner.prefill(0, [1, 2, 3], 0)
    ran.clear()
    for position in range(3, 20):
        runner.decode([0], [4], [position])
    assert len(ran) == 17
    assert len(set(ran)) == 1


def test_each_cache_keeps_its_own_keys_and_values(tmp_path: Path) -> None:
    model = load_tiny(tmp_path, "llama").model
    prompts = [5, 6, 7], [8, 9, 10]

    def decoded(*runners: Runner) -> list[Tensor]:
        for runner, prompt in zip(runners, prompts, strict=True):
            runner.prefill(0, prompt, 0)
        return [runner.decode([0], [4], [position]) for position in range(3, 9) for runner in runners]

    by_turns = decoded(Runner(model, SLOTS, CONTEXT), Runner(model, SLOTS, CONTEXT))
    one_by_one(model)
    expected = decoded(Runner(model, SLOTS, CONTEXT), Runner(model, SLOTS, CONTEXT))
    assert all(torch.equal(*both) for both in zip(by_turns, expected, strict=True))


def test_long_steps_are_computed_layer_by_layer(tmp_path: Path, ran: list[Script]) -> None:
    runner = Runner(load_tiny(tmp_path, "llama").model, SLOTS, CONTEXT)
    runner.prefill(0, [1, 2, 3], 0)
    ran.clear()
    runner.prefill(0, [5] * (MOST_TOKENS + 1), 3)
    assert not ran
    runner.prefill(0, [5] * MOST_TOKENS, 3)
    assert ran


def test_other_layouts_have_no_stack(tmp_path: Path, ran: list[Script]) -> None:
    runner = Runner(load_tiny(tmp_path, "qwen3").model, SLOTS, CONTEXT)
    runner.prefill(0, [1, 2, 3], 0)
    runner.decode([0], [4], [3])
    assert not ran
