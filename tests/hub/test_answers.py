"""Two users and a class on one service: same answers as on a laptop, and to nobody else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from nbformat.v4 import new_code_cell

from tests.hub.conftest import User
from tests.hub.real_hub import PATIENCE, RealHub, bearer, until
from tests.notebooks.jupyter import new_kernel, text_of

pytestmark = pytest.mark.hub

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."  # as in tests/server_handlers/test_real_model.py
STORY: Any = [{"role": "user", "content": "Tell a long story about a samovar."}]
USE = "access:services!service=samovar"
CLASS_SIZE = 40
CLASS_TOKENS = 8


def test_answers_are_those_of_a_laptop_by_either_way(ada: User, bob: User) -> None:
    for user, url in ((ada, ada.own), (bob, bob.own), (ada, ada.shared)):
        with user.ai(url) as ai:
            answer = ai.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=30)
            assert answer.choices[0].message.content == ANSWER
            assert "HuggingFaceTB/SmolLM2-135M-Instruct" in [model.id for model in ai.models.list()]
    with ada.client() as client:
        (model,) = client.get("/models/loaded").json()["loaded_models"]  # one copy for all
        assert model["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_stream_comes_while_it_grows_and_ends_with_its_client(ada: User) -> None:
    def in_flight() -> int:
        (model,) = client.get("/models/loaded").json()["loaded_models"]
        return int(model["in_flight"])

    with ada.client() as client, ada.ai() as ai:
        with ai.chat.completions.create(model="demo", messages=STORY, stream=True, max_tokens=2000) as chunks:
            texts = (chunk.choices[0].delta.content for chunk in chunks)
            assert [next(filter(None, texts)) for _ in range(3)]
            assert in_flight() == 1  # three pieces are here, and the rest is still being made
        until(lambda: in_flight() == 0 or None, "the end of a request that nobody reads")


def test_a_notebook_of_a_user_finds_the_service_by_itself(ada: User) -> None:
    async def run(*sources: str) -> list[str]:
        async with new_kernel(ada.own, ada.token) as kernel:
            shown = []
            for source in sources:
                cell = new_code_cell(source)
                await kernel.run(cell)
                shown.append(text_of(cell))
            return shown

    question = f"%%generate --temperature 0 --max-tokens 30\n{QUESTION[0]['content']}"
    _, answer, environment = asyncio.run(
        run(
            "%load_ext samovar", question, "import os; print(sorted(k for k in os.environ if 'SAMOVAR' in k))"
        )
    )
    assert answer.startswith(ANSWER)
    assert environment == "['SAMOVAR_SERVICE_URL']\n"


@pytest.mark.parametrize(
    ("owner", "scopes", "own", "shared"),
    [
        ("ada", None, 200, 200),
        ("bob", None, 403, 200),
        ("ada", [USE], 403, 200),
        ("ada", ["access:servers!server=ada/"], 200, 403),
        (None, None, 401, 401),
    ],
    ids=["ada", "bob", "service-only", "server-only", "wrong"],
)
def test_tokens_open_what_their_scopes_say(
    hub: RealHub,
    users: dict[str, User],
    owner: str | None,
    scopes: list[str] | None,
    own: int,
    shared: int,
) -> None:
    """On ada's server, and on the service."""
    token = users[owner].token if owner else "wrong"
    if scopes is not None and owner is not None:
        token = hub.token(token, owner, *scopes)["token"]
    for url, expected in ((users["ada"].own, own), (users["ada"].shared, shared)):
        for method, path in (("GET", "models"), ("POST", "tokenize")):
            body = {"model": "demo", "prompt": "a b"}
            answer = hub.client.request(
                method, f"{url}v1/{path}", headers=bearer(token), json=body if method == "POST" else None
            )
            assert answer.status_code == expected, (url, method)
            if not answer.is_success:
                assert answer.json()["error"]["code"] in {"invalid_api_key", "permission_denied"}


def test_a_token_that_is_revoked_soon_opens_nothing(hub: RealHub, ada: User) -> None:
    made = hub.token(ada.token, "ada", USE)

    def status() -> int:
        url = f"{ada.shared}v1/models"
        return hub.client.get(url, headers=bearer(made["token"])).status_code

    assert status() == 200
    hub.api(ada.token, "DELETE", f"users/ada/tokens/{made['id']}")
    until(lambda: status() == 401 or None, "the service to ask the Hub again")


def test_administrators_manage_the_service_by_a_scope(hub: RealHub, ada: User, admin: str) -> None:
    metrics = f"{ada.shared}metrics"
    assert hub.client.get(metrics, headers=bearer(ada.token)).status_code == 403
    manager = hub.token(admin, "admin", USE, "custom:samovar:manage")
    assert "custom:samovar:manage" in manager["scopes"]
    told = hub.client.get(metrics, headers=bearer(manager["token"]))
    assert 'samovar_loads_total{model="HuggingFaceTB/SmolLM2-135M-Instruct"}' in told.text
    with pytest.raises(httpx.HTTPStatusError):  # what ada has not, her tokens have not
        hub.token(ada.token, "ada", "custom:samovar:manage")


def test_the_token_of_a_users_server_may_use_and_of_a_managers_manage(
    hub: RealHub, ada: User, admin: str
) -> None:
    def scopes(name: str) -> list[str]:
        tokens = hub.api(admin, "GET", f"users/{name}/tokens")["api_tokens"]
        (server,) = (token for token in tokens if token["note"].startswith("Server at"))
        return [scope for scope in server["scopes"] if "samovar" in scope]

    hub.start_server(admin, "admin")
    until(lambda: hub.server_pid(admin, "admin"), "the administrator's server")
    assert scopes("ada") == [USE]
    assert sorted(scopes("admin")) == [USE, "custom:samovar:manage"]
    for server, token, refused in (
        ("ada", ada.token, "permission_denied"),
        ("admin", admin, "model_not_found"),
    ):
        answer = hub.client.post(
            f"{hub.url}/user/{server}/v1/models/unload", headers=bearer(token), json={"model": "not-there"}
        )
        assert answer.json()["error"]["code"] == refused


def test_a_class_asks_at_once_and_nothing_is_lost(hub: RealHub, admin: str, ada: User) -> None:
    names = [f"student-{number}" for number in range(CLASS_SIZE)]
    hub.api(admin, "POST", "users", json={"usernames": names})
    tokens = [hub.token(admin, name, USE)["token"] for name in names]
    body = {
        "model": "demo",
        "messages": QUESTION,
        "temperature": 0,
        "max_tokens": CLASS_TOKENS,
        "stream": True,
        "ignore_eos": True,
    }

    async def ask(client: httpx.AsyncClient, token: str) -> list[str]:
        async with client.stream("POST", "chat/completions", json=body, headers=bearer(token)) as answer:
            lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
        assert lines[-1] == "data: [DONE]", lines[-1]
        return lines[:-1]

    async def ask_all() -> list[list[str]]:
        async with httpx.AsyncClient(base_url=f"{ada.shared}v1", trust_env=False, timeout=PATIENCE) as client:
            return await asyncio.gather(*(ask(client, token) for token in tokens))

    answers = asyncio.run(ask_all())
    texts, ends = [], []
    for lines in answers:
        choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
        texts.append("".join(choice["delta"].get("content") or "" for choice in choices))
        ends.append(choices[-1]["finish_reason"])
    assert ends == ["length"] * CLASS_SIZE
    assert set(texts) == {ANSWER}
    with ada.client() as client:
        stats = client.get("/models/stats").json()
    assert stats["engines"][0]["running"] == 0


def test_usage_is_told_to_whom_it_belongs(ada: User, bob: User, admin: str, hub: RealHub) -> None:
    for user in (ada, bob):
        with user.client() as client:
            usage = client.get("usage").json()
        assert {row["user"] for row in usage["data"]} == {usage["user"]} == {user.name}
    everybodys = hub.client.get(f"{ada.shared}v1/usage", headers=bearer(admin)).json()["data"]
    assert {"ada", "bob", "student-0", "student-39"} <= {row["user"] for row in everybodys}


def test_openais_client_understands_the_refusals(ada: User, bob: User) -> None:
    with ada.ai(bob.own) as ai, pytest.raises(openai.PermissionDeniedError):
        ai.models.list()
