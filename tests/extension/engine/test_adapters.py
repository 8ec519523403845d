"""LoRA adapters beside each other on one model: peft's numbers, and nobody's bits changed by a neighbour."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar_server.engine.adapters import KEPT, Adapter, Adapters
from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.core import Engine
from samovar_server.engine.kernels.jit import has_threads
from samovar_server.engine.loading import load
from samovar_server.engine.runner import Runner
from samovar_server.engine.step import Logits, NewToken, Piece
from samovar_server.errors import InvalidRequest
from samovar_server.protocol.adapters import AdapterFolder
from tests.extension.engine.test_architectures import continued, random_tokens
from tests.extension.engine.tiny_adapters import folder_of, write_adapter
from tests.extension.engine.tiny_models import write

pytestmark = [
    pytest.mark.usefixtures("quiet_and_small"),
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing`:FutureWarning",  # which peft asks transformers for
        "ignore:fan_in_fan_out is set to False",  # peft corrects that by itself
    ),
]

PROMPT = [5, 9, 30, 2, 77, 8, 100, 41]
PATTERNS: dict[str, Any] = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*o_proj": 3}}
needs_packing = pytest.mark.skipif(not has_threads(), reason="plain layers stay torch's here")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model "base" and the adapters "one" and "two" for it."""
    folder = tmp_path_factory.mktemp("adapters")
    write(folder / "base", "llama")
    write_adapter(folder / "one", folder / "base", 1)
    write_adapter(folder / "two", folder / "base", 2, r=8, target_modules=["v_proj", "down_proj"])
    return folder


def load_model(folder: Path, name: str = "llama", quantization: str = "none") -> Any:
    return load(replace(write(folder, name), quantization=quantization), lambda fraction: None).model


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "r": 8}),
        ("llama", PATTERNS),
        ("qwen3", {"target_modules": "all-linear"}),
        ("phi3", {"target_modules": "all-linear"}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    ],
)
def test_logits_are_those_of_peft(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    model = load_model(tmp_path / "base", name)
    peft = write_adapter(tmp_path / "one", tmp_path / "base", 1, **config)
    adapter = Adapters(model).get(folder_of(tmp_path / "one"))
    runner = Runner(model, 3, 512)
    pieces = [Piece(0, PROMPT, 0, Logits.EVERY), Piece(2, PROMPT, 0, Logits.EVERY, adapter)]
    logits = [runner.run((), pieces)]
    count = len(PROMPT)
    logits.append(runner.run([NewToken(0, 7, count), NewToken(2, 7, count, adapter)], ()))
    base = torch.cat([logits[0][:count], logits[1][:1]])
    adapted = torch.cat([logits[0][count:], logits[1][1:]])
    with torch.no_grad():
        expected = peft(torch.tensor([[*PROMPT, 7]])).logits[0]
        with peft.disable_adapter():
            plain = peft(torch.tensor([[*PROMPT, 7]])).logits[0]
    torch.testing.assert_close(adapted, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(base, plain, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 0.1


@dataclass
class Conversation:
    """A slot's prompt, how far it is, and the logits that came of it."""

    slot: int
    adapter: Adapter | None
    tokens: list[int]
    prompt: int
    done: int = 0

    def next(self) -> NewToken | Piece:
        if self.done < self.prompt:
            end = min(self.done + 16, self.prompt)  # the same pieces in any company
            piece = Piece(self.slot, self.tokens[self.done : end], self.done, Logits.LAST, self.adapter)
            self.done = end
            return piece
        self.done += 1
        return NewToken(self.slot, self.tokens[self.done - 1], self.done - 1, self.adapter)


def carry_out(model: Any, conversations: list[Conversation], rng: random.Random) -> list[torch.Tensor]:
    """Each conversation's logits, when in every step some of those that are not done take part."""
    runner = Runner(model, 8, 512)
    seen: list[list[torch.Tensor]] = [[] for _ in conversations]
    while left := [index for index, one in enumerate(conversations) if one.done < len(one.tokens)]:
        chosen = rng.sample(left, rng.randint(1, len(left)))
        chosen.sort(key=lambda index: conversations[index].slot)
        work = [(index, conversations[index].next()) for index in chosen]
        tokens = [(index, new) for index, new in work if isinstance(new, NewToken)]
        pieces = [(index, piece) for index, piece in work if isinstance(piece, Piece)]
        logits = runner.run([new for _, new in tokens], [piece for _, piece in pieces])
        for row, (index, _) in zip(logits, [*tokens, *pieces], strict=True):
            seen[index].append(row.clone())
    return [torch.stack(rows) for rows in seen]


@needs_packing
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_bits_are_the_same_beside_any_adapters(llama: Path, tmp_path: Path, quantization: str) -> None:
    model = load_model(tmp_path, quantization=quantization)
    for seed in range(6):
        rng = random.Random(seed)
        prompts = [random_tokens(rng, rng.randint(3, 60)) for _ in range(6)]
        lengths = [rng.randint(1, len(prompt)) for prompt in prompts]
        # Before any adapter is loaded, and one after the other: nothing that could have changed a bit.
        alone = [
            carry_out(model, [Conversation(3, None, prompt, length)], rng)[0]
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        adapters = Adapters(model)
        one, two = (adapters.get(folder_of(llama / name)) for name in ("one", "two"))
        assert one.inexact_because is None
        users = [None, one, None, two, one, None]
        rng.shuffle(users)
        slots = rng.sample(range(8), 6)
        crowd = carry_out(
            model, [Conversation(*given) for given in zip(slots, users, prompts, lengths, strict=True)], rng
        )
        for user, prompt, length, mine, before in zip(users, prompts, lengths, crowd, alone, strict=True):
            if user is None:
                assert torch.equal(mine, before)
            else:
                assert torch.equal(mine, carry_out(model, [Conversation(0, user, prompt, length)], rng)[0])
                assert not torch.equal(mine, before)


def test_layers_that_stay_as_they_are_take_adapters_too(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []
    for logits in (packed, plain):
        model = load_model(tmp_path)
        adapter = Adapters(model).get(folder_of(llama / "one"))
        logits.append(Runner(model, 1, 512).run((), [Piece(0, PROMPT, 0, Logits.EVERY, adapter)]))
        monkeypatch.setattr("samovar_server.engine.linear.has_threads", lambda: False)  # as on a GPU
    assert type(model.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    torch.testing.assert_close(plain[0], packed[0], rtol=1e-4, atol=1e-4)


def test_a_step_without_adapters_finds_the_model_as_it_was(llama: Path, tmp_path: Path) -> None:
    model = load_model(tmp_path)
    adapter = Adapters(model).get(folder_of(llama / "one"))
    Runner(model, 1, 512).run((), [Piece(0, PROMPT, 0, adapter=adapter)])
    assert not any(module._forward_hooks for module in model.modules())


def test_a_prefix_is_reused_under_the_same_adapter_only(llama: Path, tmp_path: Path) -> None:
    model = load_model(tmp_path)
    one, two = (Adapters(model).get(folder_of(llama / name)) for name in ("one", "two"))
    prompt = random_tokens(random.Random(3), 70)
    runner = Runner(model, 8, 512)
    users = [None, one, None, one, two]
    sequences = continued(runner, [prompt] * 5, adapters=users)
    assert [sequence.cached_tokens for sequence in sequences] == [0, 0, 69, 69, 0]
    outputs = [sequence.output for sequence in sequences]
    assert outputs[0] == outputs[2]
    assert outputs[1] == outputs[3]
    assert outputs[0] != outputs[1]


def test_an_adapter_is_loaded_between_two_steps(llama: Path, tmp_path: Path) -> None:
    runner = Runner(load_model(tmp_path), 2, 512)
    engine = Engine(
        runner, ComputeThread(), slots=2, max_queue=2, deliver=lambda outputs: None, on_failure=pytest.fail
    )
    engine.start()
    adapters = Adapters(runner.model)
    loaded = engine.call(lambda: adapters.get(folder_of(llama / "one"))).result(30)
    assert engine.call(lambda: adapters.get(folder_of(llama / "one"))).result(30) is loaded
    with pytest.raises(InvalidRequest, match="is gone"):
        engine.call(lambda: adapters.get(AdapterFolder("none", str(tmp_path / "none")))).result(30)
    engine.stop()


def test_changed_files_are_read_again_and_a_few_adapters_are_kept(llama: Path, tmp_path: Path) -> None:
    adapters = Adapters(load_model(tmp_path / "base"))
    copies = [copy_of(llama / "one", tmp_path / f"copy{number}") for number in range(KEPT + 1)]
    first = adapters.get(copies[0])
    for copy in copies[1:KEPT]:
        adapters.get(copy)
    assert adapters.get(copies[0]) is first
    second = adapters.get(copies[1])
    adapters.get(copies[KEPT])  # for which the third had to go
    assert adapters.get(copies[0]) is first
    assert adapters.get(copies[1]) is second
    change_config(copies[0], lora_alpha=160)
    assert adapters.get(copies[0]).key != first.key


def copy_of(source: Path, target: Path) -> AdapterFolder:
    target.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())
    return folder_of(target)


def change_config(folder: AdapterFolder, **fields: Any) -> None:
    path = Path(folder.path, "adapter_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "its peft_type is IA3, and only LORA is supported"),
        ({"use_dora": True}, "it sets use_dora"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "it sets modules_to_save"),
        ({"of_tomorrow": {"a": 1}}, "it sets of_tomorrow"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern: '\(' is no regular expression"),
    ],
)
def test_what_is_more_than_lora_is_refused_by_name(
    llama: Path, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    folder = copy_of(llama / "one", tmp_path / "odd")
    change_config(folder, **fields)
    with pytest.raises(InvalidRequest, match=f"Adapter odd cannot be used: {words}") as caught:
        Adapters(load_model(tmp_path / "base")).get(folder)
    assert caught.value.param == "model"


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {A: (4, 32), B: (64, 4)},
            "for model.layers.0.self_attn.q_proj it has 32 inputs and 64 outputs, and the model 64 and 64. "
            "The adapter was made for",
        ),
        ({A: (4, 64), B: (64, 5)}, "do not go together"),
        ({A: (4, 64)}, "do not go together"),
        ({A.replace(".0.", ".9."): (4, 64), B.replace(".0.", ".9."): (64, 4)}, "the model has no layer"),
        ({A.replace("self_attn.q_proj", "input_layernorm"): (4, 64)}, "do not go together"),
        ({A.replace("lora_A", "lora_magnitude"): (4, 64)}, "is no part of a LoRA of linear layers"),
        (
            {
                "base_model.model.lm_head.lora_A.weight": (4, 64),
                "base_model.model.lm_head.lora_B.weight": (256, 4),
            },
            "lm_head is the vocabulary head",
        ),
        (
            {
                "base_model.model.model.norm.lora_A.weight": (4, 64),
                "base_model.model.model.norm.lora_B.weight": (64, 4),
            },
            "model.norm is no linear layer",
        ),
        ({}, "it holds no weights"),
        (None, "cannot be read"),
    ],
)
def test_weights_that_do_not_fit_the_model_are_refused(
    llama: Path, tmp_path: Path, tensors: dict[str, tuple[int, int]] | None, words: str
) -> None:
    folder = copy_of(llama / "one", tmp_path / "odd")
    weights = Path(folder.path, "adapter_model.safetensors")
    if tensors is None:
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, weights)
    with pytest.raises(InvalidRequest, match="Adapter odd cannot be used") as caught:
        Adapters(load_model(tmp_path / "base")).get(folder)
    assert words in caught.value.message


def test_an_expert_of_a_mixture_takes_no_adapter(tmp_path: Path) -> None:
    model = load_model(tmp_path / "base", "mixtral")
    write_adapter(tmp_path / "one", tmp_path / "base", 1, target_modules=["q_proj"])
    weights = tmp_path / "one" / "adapter_model.safetensors"
    (a, b) = (
        next(t for name, t in load_file(weights).items() if side in name) for side in ("lora_A", "lora_B")
    )
    expert = next(name for name, _ in model.named_modules() if "experts.into.0" in name)
    save_file(
        {f"base_model.model.{expert}.lora_A.weight": a, f"base_model.model.{expert}.lora_B.weight": b},
        weights,
    )
    with pytest.raises(InvalidRequest, match="is an expert of a mixture"):
        Adapters(model).get(folder_of(tmp_path / "one"))
