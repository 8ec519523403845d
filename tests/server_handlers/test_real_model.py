"""The whole product on the real model: a Jupyter server's own process, its worker, and OpenAI's client."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.notebooks.jupyter import TOKEN, Jupyter, jupyter
from tests.processes import children_of, is_running

pytestmark = pytest.mark.real

PATIENCE = 120.0
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
STORY: Any = [{"role": "user", "content": "Tell a long story about a samovar."}]


@pytest.fixture(scope="module")
def server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    folder = tmp_path_factory.mktemp("server")
    with jupyter(folder, f"--Workbench.model_folders={demo_model.parent}") as server:
        yield server


@pytest.fixture(scope="module")
def ai(server: Jupyter) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}v1", api_key=TOKEN, max_retries=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Jupyter) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(
        base_url=f"{server.url}v1", headers=headers, trust_env=False, timeout=PATIENCE
    ) as client:
        yield client


def loaded(http: httpx.Client) -> dict[str, Any]:
    (model,) = http.get("/models/loaded").raise_for_status().json()["loaded_models"]
    assert isinstance(model, dict)
    return model


def test_a_stream_is_the_whole_answer_in_pieces(ai: openai.OpenAI) -> None:
    whole = ai.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=30)
    assert whole.choices[0].message.content == "The capital of France is Paris."
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(
        ai.chat.completions.create(
            model="demo",
            messages=QUESTION,
            temperature=0,
            max_tokens=30,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 4
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 36


def test_equal_seeds_give_equal_texts_under_load_and_samples_differ(ai: openai.OpenAI) -> None:
    def story(seed: int, n: int = 1) -> list[str]:
        answer = ai.chat.completions.create(model="demo", messages=STORY, seed=seed, n=n, max_tokens=20)
        return [choice.message.content or "" for choice in answer.choices]

    alone = story(7)
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(story, [1, 2, 7, 3, 4, 7, 5, 6]))
    assert crowd[2] == crowd[5] == alone
    assert len({text for texts in crowd for text in texts}) == 7
    samples = story(7, n=3)
    assert samples[0] == alone[0]
    assert len(set(samples)) == 3


def test_stop_strings_end_streams_where_they_end_answers(ai: openai.OpenAI) -> None:
    arguments: Any = {"model": "demo", "messages": QUESTION, "temperature": 0, "stop": ["ce is", "Berlin"]}
    whole = ai.chat.completions.create(**arguments)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (
        "The capital of Fran",
        "stop",
    )
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in ai.chat.completions.create(**arguments, stream=True)
    ]
    assert "".join(pieces) == "The capital of Fran"


def test_scores_are_those_of_transformers(ai: openai.OpenAI, demo_model: Path) -> None:
    text = "The samovar hums, and the tea is strong."
    answer = ai.completions.create(model="demo", prompt=text, max_tokens=0, echo=True, logprobs=3)
    scores = answer.choices[0].logprobs
    assert scores is not None
    ids = AutoTokenizer.from_pretrained(demo_model)(text, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    with torch.inference_mode():
        theirs = torch.log_softmax(model(ids).logits[0, :-1], -1)
    expected = theirs.gather(-1, ids[0, 1:, None])[:, 0]
    assert answer.choices[0].text == text == "".join(scores.tokens or [])
    assert scores.token_logprobs is not None
    assert scores.token_logprobs[0] is None
    torch.testing.assert_close(torch.tensor(scores.token_logprobs[1:]), expected, atol=1e-3, rtol=1e-3)
    best = theirs.topk(3).values
    for top, values in zip((scores.top_logprobs or [])[1:], best, strict=True):
        torch.testing.assert_close(
            torch.tensor(sorted(top.values(), reverse=True)[:3]), values, atol=1e-3, rtol=1e-3
        )


def test_tokenize_and_detokenize_are_each_others_inverse(http: httpx.Client) -> None:
    text = "Tea 🫖, wörld\n\n42"
    tokens = http.post("/tokenize", json={"model": "demo", "prompt": text}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strings"])
    assert http.post("/detokenize", json={"model": "demo", "tokens": tokens["tokens"]}).json() == {
        "prompt": text
    }


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_tokens": 100_000}, "messages", "context_length_exceeded"),
        ({"logit_bias": {"49152": 1}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [49152]}, "stop_token_ids", "invalid_value"),
    ],
)
def test_what_only_the_model_can_know_is_refused_by_name(
    http: httpx.Client, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = http.post("/chat/completions", json={"model": "demo", "messages": QUESTION, **fields})
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


def test_a_client_that_goes_away_frees_its_place(ai: openai.OpenAI, http: httpx.Client) -> None:
    with ai.chat.completions.create(model="demo", messages=STORY, stream=True) as stream:
        next(iter(stream))
        assert loaded(http)["in_flight"] == 1
    deadline = time.monotonic() + PATIENCE
    while loaded(http)["in_flight"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert loaded(http)["in_flight"] == 0


def test_stats_tell_how_much_of_the_prompts_was_found_in_the_cache(
    ai: openai.OpenAI, http: httpx.Client
) -> None:
    def cached() -> int:
        (engine,) = http.get("/models/stats").json()["engines"]
        assert engine["prefix_hit_rate"] == engine["cached_tokens"] / (
            engine["cached_tokens"] + engine["prompt_tokens"]
        )
        return int(engine["cached_tokens"])

    for _ in range(2):
        ai.chat.completions.create(model="demo", messages=QUESTION, max_tokens=1)
    before = cached()
    ai.chat.completions.create(model="demo", messages=QUESTION, max_tokens=1)
    assert cached() == before + 36


def workers(server: Jupyter) -> list[int]:
    """The worker processes, by what they were started as."""
    return [
        pid
        for pid in children_of(server.process.pid)
        if b"samovar_server.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_a_killed_worker_is_told_within_a_second_and_the_next_request_works(
    server: Jupyter, ai: openai.OpenAI, http: httpx.Client
) -> None:
    stream = iter(ai.chat.completions.create(model="demo", messages=STORY, stream=True))
    next(stream)
    for pid in workers(server):
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(openai.APIError) as broken:
        for _ in stream:
            pass
    assert broken.value.code == "model_crashed"
    assert time.monotonic() - killed < 1
    answer = ai.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=30)
    assert answer.choices[0].message.content == "The capital of France is Paris."


def test_nothing_outlives_a_killed_server(demo_model: Path, tmp_path: Path) -> None:
    with jupyter(tmp_path, f"--Workbench.model_folders={demo_model.parent}") as server:
        url, headers = f"{server.url}v1/chat/completions", {"Authorization": f"Bearer {TOKEN}"}
        begun = threading.Event()

        def stream() -> None:
            with (
                httpx.Client(trust_env=False, timeout=PATIENCE) as client,
                client.stream(
                    "POST", url, headers=headers, json={"messages": STORY, "stream": True}
                ) as answer,
            ):
                for line in answer.iter_lines():
                    if line.startswith("data:") and json.loads(line[5:])["choices"][0]["delta"]["content"]:
                        begun.set()

        def stream_until_the_end() -> None:
            with pytest.raises(httpx.TransportError):
                stream()

        reader = threading.Thread(target=stream_until_the_end)
        reader.start()
        assert begun.wait(PATIENCE)
        pids = workers(server)
        assert pids
        os.kill(server.process.pid, signal.SIGKILL)
        reader.join(PATIENCE)
        deadline = time.monotonic() + 10
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(is_running, pids))
