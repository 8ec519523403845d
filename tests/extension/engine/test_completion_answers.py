"""Completions over HTTP from a model whose every logit is known: shapes, scores, places, counts, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import torch

from tests.extension.engine.tokenizers import byte_level
from tests.extension.engine.whim import CONTEXT_LENGTH, ask, events, whim

VOCABULARY = len(byte_level())
TEXT = "Tea 🫖 from a samovar, é!"


def complete(*bodies: dict[str, Any], **around: Any) -> list[Any]:
    """The answers, asked all at once."""
    defaults = {"prompt": TEXT, "max_tokens": 20, "seed": 1, "ignore_eos": True}
    answers = ask("completions", *(defaults | body for body in bodies), **around)
    return [answer if answer.status_code != 200 or is_stream(answer) else answer.json() for answer in answers]


def is_stream(answer: httpx.Response) -> bool:
    return answer.headers["Content-Type"] == "text/event-stream"


def ids_of(text: str) -> list[int]:
    ids: list[int] = byte_level()(text)["input_ids"]
    return ids


def logprobs_behind(ids: Sequence[int]) -> torch.Tensor:
    return torch.log_softmax(whim(ids, VOCABULARY), -1)


@pytest.mark.parametrize(
    "prompt", [TEXT, ids_of(TEXT), "<|im_start|>Hi"], ids=["text", "token ids", "special"]
)
def test_echo_scores_the_prompt_and_says_where_its_tokens_begin(prompt: Any) -> None:
    (answer,) = complete({"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 2})
    (choice,) = answer["choices"]
    ids = ids_of(prompt) if isinstance(prompt, str) else prompt
    assert choice["text"] == byte_level().decode(ids)
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0
    scores = choice["logprobs"]
    assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
    expected = [logprobs_behind(ids[:place])[ids[place]].item() for place in range(1, len(ids))]
    assert scores["token_logprobs"][1:] == pytest.approx(expected, abs=1e-5)
    assert [len(top) in (2, 3) for top in scores["top_logprobs"][1:]] == [True] * (len(ids) - 1)
    in_place(choice)


def in_place(choice: Any) -> None:
    """Each token that is whole characters begins at its offset; parts of one begin where it does."""
    text, scores = choice["text"], choice["logprobs"]
    assert len(scores["tokens"]) == len(scores["text_offset"]) == len(scores["token_logprobs"])
    places = scores["text_offset"]
    assert places == sorted(places)
    for token, place in zip(scores["tokens"], places, strict=True):
        if not token.startswith("bytes:") and token not in byte_level().all_special_tokens:
            assert text[place:].startswith(token)


def test_parts_of_a_character_are_named_by_their_bytes() -> None:
    (answer,) = complete({"prompt": "a🫖b", "max_tokens": 0, "echo": True, "logprobs": 0})
    scores = answer["choices"][0]["logprobs"]
    assert scores["tokens"] == ["a", *(rf"bytes:\x{byte:02x}" for byte in "🫖".encode()), "b"]
    assert scores["text_offset"] == [0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_is_the_whole_answer_in_pieces(seed: int, echo: bool) -> None:
    body = {"seed": seed, "echo": echo, "logprobs": 1, "n": 2, "prompt": [TEXT, "Hi"], "stop": ["q", "zz"]}
    whole, stream = complete(body, body | {"stream": True})
    *chunks, done = events(stream)
    assert done == "[DONE]"
    for choice in whole["choices"]:
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        assert [piece["finish_reason"] for piece in mine] == [None] * (len(mine) - 1) + [
            choice["finish_reason"]
        ]
        for name, values in choice["logprobs"].items():
            assert [value for piece in mine for value in piece["logprobs"][name]] == values


ODD: list[tuple[str, dict[str, Any]]] = [
    ("Hi", {}),
    ("Tea", {"temperature": 0.3, "top_p": 0.5}),
    ("Jam", {"frequency_penalty": 1.5, "repetition_penalty": 1.3}),
    ("Rusk", {"logit_bias": {"70": 100}, "temperature": 0}),
]


def test_scores_are_the_models_own_for_each_of_many_neighbours() -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": ids_of(text), "seed": seed, "logprobs": 3, "stop_token_ids": []} | odd
        for seed, (text, odd) in enumerate(ODD)
    ]
    for body, answer in zip(bodies, complete(*bodies), strict=True):
        scores = answer["choices"][0]["logprobs"]
        context = list(body["prompt"])
        for token, logprob, top in zip(
            scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True
        ):
            theirs = logprobs_behind(context)
            best = theirs.topk(3).values.tolist()
            assert sorted(top.values(), reverse=True)[:3] == pytest.approx(best, abs=1e-5)
            assert top[token] == logprob
            candidates = [n for n in range(VOCABULARY) if abs(theirs[n].item() - logprob) < 1e-6]
            assert candidates, "no token of this model's has that score here"
            context.append(candidates[0])


def test_best_of_returns_the_samples_with_the_best_mean_score() -> None:
    shared = {"max_tokens": 6, "logprobs": 0, "seed": 5}
    (every,), (best,) = complete(shared | {"n": 5}), complete(shared | {"n": 2, "best_of": 5})
    means = {choice["text"]: sum(choice["logprobs"]["token_logprobs"]) / 6 for choice in every["choices"]}
    ranked = sorted(means, key=lambda text: -means[text])
    assert [choice["text"] for choice in best["choices"]] == ranked[:2]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == 30


def test_counts_are_of_each_prompt_once_and_of_all_samples() -> None:
    prompts = [ids_of("x" * 40), ids_of("x" * 41)]
    (answer,) = complete({"prompt": prompts, "n": 3, "max_tokens": 2})
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (81, 12, 93)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 40}


def test_prompt_logprobs_have_as_many_alternatives_as_asked_beside_others() -> None:
    (answer,) = complete({"echo": True, "logprobs": 5, "prompt_logprobs": 1, "max_tokens": 1})
    ids = ids_of(TEXT)
    first, *others = answer["choices"][0]["prompt_logprobs"]
    assert first is None
    assert len(others) == len(ids) - 1
    for place, scores in enumerate(others, start=1):
        theirs = logprobs_behind(ids[:place])
        assert scores.keys() == {str(ids[place]), str(int(theirs.argmax()))}
        own = scores[str(ids[place])]
        assert own["rank"] == int((theirs > theirs[ids[place]]).sum()) + 1
        assert own["logprob"] == pytest.approx(theirs[ids[place]].item(), abs=1e-5)


def test_min_tokens_holds_off_stop_strings_too() -> None:
    body = {"max_tokens": 30, "logit_bias": {"70": 100}, "stop": [byte_level().decode([70])]}
    stopped, least = complete(body, body | {"min_tokens": 25})
    assert stopped["usage"]["completion_tokens"] == 1
    assert (least["choices"][0]["finish_reason"], least["usage"]["completion_tokens"]) == ("stop", 26)
    assert least["choices"][0]["text"] == byte_level().decode([70] * 25)


def test_more_samples_than_find_a_place_are_refused_and_neighbours_go_on() -> None:
    answers = complete({"n": 5}, {"n": 5}, {"n": 14}, {"n": 5}, {"n": 5})
    refused = [answer for answer in answers if not isinstance(answer, dict)]
    assert refused
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
    assert all(len(answer["choices"]) >= 5 for answer in answers if isinstance(answer, dict))


def test_the_window_is_filled_to_its_end_and_not_beyond() -> None:
    prompt = [70] * (CONTEXT_LENGTH - 2)
    fits, default, beyond, full = complete(
        {"prompt": prompt, "max_tokens": 2},
        {"prompt": prompt, "max_tokens": None},
        {"prompt": prompt, "max_tokens": 3},
        {"prompt": [70] * CONTEXT_LENGTH, "max_tokens": None},
    )
    assert fits["usage"]["total_tokens"] == default["usage"]["total_tokens"] == CONTEXT_LENGTH
    assert fits["choices"][0]["finish_reason"] == "length"
    for refused in (beyond, full):
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [VOCABULARY]}, "prompt"),
        ({"logit_bias": {str(VOCABULARY): 1}}, "logit_bias"),
        ({"stop_token_ids": [VOCABULARY]}, "stop_token_ids"),
        ({"exact": True}, "exact"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name_and_neighbours_go_on(
    fields: dict[str, Any], param: str
) -> None:
    refused, neighbour = complete(fields, {}, inexact_because="it is a whim")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert neighbour["usage"]["completion_tokens"] == 20


def test_the_last_token_of_the_vocabulary_is_taken() -> None:
    last = VOCABULARY - 1
    (answer,) = complete({"prompt": [last], "logit_bias": {str(last): 1}, "stop_token_ids": [last]})
    assert answer["usage"]["prompt_tokens"] == 1
