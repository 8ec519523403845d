"""One JupyterHub for all of these tests, with ada and bob, whose servers run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

from tests.hub.real_hub import PATIENCE, RealHub, bearer, until


@pytest.fixture(scope="session")
def hub(
    hub_proxy: str, demo_model: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealHub]:
    assert demo_gguf.is_relative_to(demo_model.parent)
    hub = RealHub(tmp_path_factory.mktemp("hub"), demo_model.parent, hub_proxy)
    hub.start()
    yield hub
    hub.close()


@dataclass(frozen=True)
class User:
    """A user of the Hub. `own` is the URL of his server, `token` one that may do all that he may."""

    name: str
    own: str
    shared: str
    token: str = field(repr=False)

    def client(self, url: str | None = None) -> httpx.Client:
        """A client of /v1 on his own server, or at `url`."""
        return httpx.Client(
            base_url=f"{url or self.own}v1", headers=bearer(self.token), trust_env=False, timeout=PATIENCE
        )

    def ai(self, url: str | None = None) -> openai.OpenAI:
        """The same as OpenAI's client."""
        return openai.OpenAI(
            base_url=f"{url or self.own}v1", api_key=self.token, max_retries=0, timeout=PATIENCE
        )


@pytest.fixture(scope="session")
def admin(hub: RealHub) -> str:
    """A token of the Hub's administrator."""
    return hub.log_in("admin")


@pytest.fixture(scope="session")
def users(hub: RealHub, admin: str) -> dict[str, User]:
    """ada and bob, each with a server of his own."""
    shared = f"{hub.url}/services/samovar/"
    users = {name: User(name, f"{hub.url}/user/{name}/", shared, hub.log_in(name)) for name in ("ada", "bob")}
    for name, user in users.items():
        hub.start_server(user.token, name)
    for name in users:
        until(lambda name=name: hub.server_pid(admin, name), f"the server of {name}")  # type: ignore[misc]
    return users


@pytest.fixture(scope="session")
def ada(users: dict[str, User]) -> User:
    return users["ada"]


@pytest.fixture(scope="session")
def bob(users: dict[str, User]) -> User:
    return users["bob"]
