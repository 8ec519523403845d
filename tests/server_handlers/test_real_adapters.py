"""Adapters on the real model, through a Jupyter server and its worker: peft's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from tests.notebooks.jupyter import TOKEN, Jupyter, jupyter

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft asks for it
]

PROMPT = "The samovar stood on the table, and"
NEW_TOKENS = 12
ADAPTERS = {"me/one": ["q_proj", "v_proj", "down_proj"], "two": "all-linear"}


@pytest.fixture(scope="module")
def folder(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that holds two random adapters for the demo model."""
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def expected(demo_model: Path, folder: Path) -> dict[str, str]:
    """What transformers and peft write after the prompt, greedily: the base's ("") and by adapter."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    ids = tokenizer(PROMPT, return_tensors="pt")
    texts = {}

    def text_of(model: PeftModel) -> str:
        output = model.generate(**ids, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0)
        text: str = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    for seed, (name, targets) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
        config = LoraConfig(r=8, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        model = get_peft_model(base, config).eval()
        model.save_pretrained(folder / name)
        texts[name] = text_of(model)
        with model.disable_adapter():
            texts[""] = text_of(model)
    return texts


@pytest.fixture(scope="module")
def server(
    demo_model: Path, folder: Path, expected: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Jupyter]:
    folders = [f"--Workbench.model_folders={place}" for place in (demo_model.parent, folder)]
    with jupyter(tmp_path_factory.mktemp("server"), *folders) as server:
        yield server


def test_base_and_adapters_answer_side_by_side_as_peft_does(
    server: Jupyter, expected: dict[str, str]
) -> None:
    assert len(set(expected.values())) == 3
    with openai.OpenAI(base_url=f"{server.url}v1", api_key=TOKEN, max_retries=0, timeout=120) as ai:

        def ask(adapter: str) -> str:
            model = f"demo+{adapter}" if adapter else "demo"
            answer = ai.completions.create(
                model=model, prompt=PROMPT, temperature=0, max_tokens=NEW_TOKENS, extra_body={"exact": True}
            )
            assert answer.model == model
            return answer.choices[0].text

        users = ["", "me/one", "two", "", "me/one", "two"]
        with ThreadPoolExecutor(len(users)) as pool:
            assert list(pool.map(ask, users)) == [expected[user] for user in users]
        with pytest.raises(openai.NotFoundError, match="There is: me/one"):
            ask("me/on")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{server.url}v1", headers=headers, trust_env=False, timeout=60) as http:
        (resident,) = http.get("/models/loaded").json()["loaded_models"]
        assert resident["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_an_adapter_for_another_model_is_refused_with_the_mismatch(server: Jupyter, folder: Path) -> None:
    odd = folder / "odd"
    odd.mkdir()
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_hidden_layers=1)
    small = AutoModelForCausalLM.from_config(config)
    get_peft_model(small, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(odd)
    with openai.OpenAI(base_url=f"{server.url}v1", api_key=TOKEN, max_retries=0, timeout=120) as ai:
        with pytest.raises(
            openai.BadRequestError, match="it has 64 inputs and 64 outputs, and the model 576"
        ):
            ai.completions.create(model="demo+odd", prompt=PROMPT, max_tokens=1)
        assert ai.completions.create(model="demo", prompt=PROMPT, max_tokens=1).choices[0].text
