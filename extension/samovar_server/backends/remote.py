"""Models of other servers that speak OpenAI's HTTP: a shared samovar, a vLLM cluster, a service.

There is nothing to load: a request gets a lease at once, and the body goes on to the other server under
the name that it has for the model.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from samovar_server.backends.base import CHAT, COMPLETIONS, EMBEDDINGS, Routes, refuse_fields, refuse_options
from samovar_server.cache.lease import Lease
from samovar_server.cache.records import LoadedModel
from samovar_server.errors import InvalidRequest, ModelNotFound, SamovarError, UpstreamFailed, UpstreamTimeout
from samovar_server.loader.dialect import Dialect
from samovar_server.loader.options import LoadOptions

LIST_SECONDS = 5.0
"""How long another server may take to list its models."""
FRESH_SECONDS = 30.0
"""How long such a list is taken for true, an empty one of a server that did not answer included."""
SHOWN_NAMES = 10


class Remote(BaseModel):
    """One other server, as the settings have it.

    `url` ends where OpenAI's paths begin, mostly with /v1; `key_variable` names the environment variable
    with the key; `timeout` is how many seconds the server may be silent within an answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s?#@]*)?$")]
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    timeout: Annotated[float, Field(gt=0)] = 600.0

    def key(self) -> str:
        """The key, as the environment has it now; "" where none is needed."""
        return os.environ.get(self.key_variable, "") if self.key_variable is not None else ""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
_REMOTES: TypeAdapter[dict[Name, Remote]] = TypeAdapter(dict[Name, Remote])


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model of the remote `remote`, which calls it `name`. `created` is in Unix seconds."""

    remote: str
    name: str
    created: int = 0

    @property
    def id(self) -> str:
        """What it is called here."""
        return f"{self.remote}/{self.name}"


@dataclass
class RemoteLease(Lease):
    """Nothing is held here; `url` is the remote's."""

    def endpoint(self, path: str) -> str:
        """See Lease. The remote's URL has its own beginning of OpenAI's paths."""
        return self.url + path.removeprefix("/v1")

    def failure(self) -> SamovarError:
        """The remote could not be reached, or broke off."""
        return UpstreamFailed(
            f"{self.model.model}: the connection to its server failed. Send the request again; if that does "
            "not help, see whether the server runs, and Workbench.remotes for its address."
        )

    def silence(self) -> SamovarError:
        """The remote was silent for too long."""
        return UpstreamTimeout(
            f"{self.model.model}: its server has been silent for {self.timeout:g} s. Send the request again, "
            "or raise the timeout in Workbench.remotes."
        )


class RemoteBackend:
    """Honours no load options: how the models are held is the other servers' business.

    Fields of a request go on as they are; what the other server does not know, it has to refuse.
    """

    name: ClassVar[str] = "remote"
    title: ClassVar[str] = "another server"
    options: ClassVar[frozenset[str]] = frozenset()
    routes: ClassVar[Routes] = {
        "/v1/chat/completions": CHAT,
        "/v1/completions": COMPLETIONS,
        "/v1/embeddings": EMBEDDINGS,
    }

    def __init__(self, remotes: Mapping[str, Remote], log: logging.Logger) -> None:
        self._remotes = remotes
        self._log = log
        self._lists: dict[str, tuple[float, list[RemoteModel]]] = {}
        self._client = httpx.AsyncClient(timeout=LIST_SECONDS)

    def find(self, reference: str) -> RemoteModel | None:
        """The model that `reference` names, if its first part is a remote's name. It may not exist."""
        remote, slash, name = reference.partition("/")
        return RemoteModel(remote, name) if slash and name and remote in self._remotes else None

    def lease(
        self, model: RemoteModel, options: LoadOptions, route: str | None, fields: frozenset[str]
    ) -> RemoteLease:
        """The right to send one request. InvalidRequest for what cannot be asked of a remote."""
        self._refuse(options)
        if "ttl" in fields:
            raise self._not_held("ttl")
        if route is not None:
            refuse_fields(self, route, fields)
        remote = self._remotes[model.remote]
        dialect = Dialect(f"remote {model.remote}", model.name)
        return RemoteLease(
            remote.url.rstrip("/"), remote.key(), self._record(model), dialect=dialect, timeout=remote.timeout
        )

    async def load(self, model: RemoteModel, options: LoadOptions) -> LoadedModel:
        """See whether the remote has `model`: what loading means here.

        Raises InvalidRequest, ModelNotFound, UpstreamFailed.
        """
        self._refuse(options)
        has = await self._ask(model.remote)
        if model.name not in {other.name for other in has}:
            names = ", ".join(other.id for other in has[:SHOWN_NAMES]) or "none"
            raise ModelNotFound(
                f"{model.remote} has no model {model.name!r}. It has: {names}.", param="model"
            )
        return self._record(model)

    async def models(self) -> list[RemoteModel]:
        """What the remotes have; one that does not answer is left out, and the log says so."""
        return [model for name in self._remotes for model in await self._listed(name)]

    async def close(self) -> None:
        """Ask the remotes nothing any more."""
        await self._client.aclose()

    async def _listed(self, name: str) -> list[RemoteModel]:
        asked_at, models = self._lists.get(name, (0.0, []))
        if not asked_at or time.monotonic() - asked_at > FRESH_SECONDS:
            try:
                models = await self._ask(name)
            except UpstreamFailed as error:
                self._log.warning("%s", error.message)
                models = []
            self._lists[name] = (time.monotonic(), models)
        return models

    async def _ask(self, name: str) -> list[RemoteModel]:
        remote = self._remotes[name]
        headers = {"Authorization": f"Bearer {key}"} if (key := remote.key()) else {}
        try:
            answer = await self._client.get(f"{remote.url.rstrip('/')}/models", headers=headers)
            listed = _MODELS.validate_json(answer.raise_for_status().content)
        except (httpx.HTTPError, ValidationError) as error:
            why = type(error).__name__
            if isinstance(error, httpx.HTTPStatusError):
                why = f"HTTP {error.response.status_code}"
            raise UpstreamFailed(
                f"remote {name} does not list its models ({why}). See whether it runs, and Workbench.remotes "
                "for its address and key."
            ) from None
        return [RemoteModel(name, model.id, model.created) for model in listed.data]

    def _refuse(self, options: LoadOptions) -> None:
        if options.backend not in ("auto", self.name):
            raise InvalidRequest(
                f"backend: this model is another server's (got {options.backend}). Leave it out.",
                param="backend",
            )
        if options.memory_bytes is not None:
            raise self._not_held("memory_bytes")
        refuse_options(self, options)

    def _not_held(self, param: str) -> InvalidRequest:
        return InvalidRequest(
            f"{param}: the model is another server's and is not held in memory here. Leave it out.",
            param=param,
        )

    def _record(self, model: RemoteModel) -> LoadedModel:
        now = time.time()
        return LoadedModel(
            cache_key=f"{model.id}|remote",
            model=model.id,
            model_path="",
            backend=self.name,
            device="remote",
            dtype="auto",
            quantization="auto",
            state="ready",
            memory_bytes=0,
            in_flight=0,
            queued=0,
            pinned=False,
            loaded_at=None,
            last_used=now,
            expires_at=None,
            ttl=0.0,
            ttl_remaining=None,
            context_length=None,
            load_seconds={},
            backend_reason=f"{model.remote} is a server in Workbench.remotes",
        )


class _Model(BaseModel):
    id: str
    created: int = 0


class _Models(BaseModel):
    data: list[_Model] = Field(default_factory=list)


_MODELS: TypeAdapter[_Models] = TypeAdapter(_Models)


def parse_remotes(setting: Mapping[str, Any]) -> dict[str, Remote]:
    """The remotes of a setting; ValueError says what is wrong with it."""
    try:
        return _REMOTES.validate_python(dict(setting))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
