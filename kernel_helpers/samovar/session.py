"""A connection to one server: samovar's own routes, typed. OpenAI's routes have OpenAI's client."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import httpx

from samovar.connect import Server, find_server
from samovar.errors import ConnectionLost, SamovarError, ServerError
from samovar.options import nearest
from samovar.records import (
    OPEN,
    Cleaning,
    DeviceMemory,
    Diagnosis,
    Download,
    Estimate,
    Event,
    FoundModel,
    LoadedModel,
    LoadOptions,
    LoadProgress,
    Model,
    RepoCheck,
    StoredModel,
    TokenScore,
)
from samovar.sse import Comment, Data, parse_events
from samovar.wire import CONNECT_SECONDS, Wire

SILENCE_SECONDS = 20.0
"""While it lives, the server says something on `GET /v1/events` every five seconds."""

OnProgress = Callable[[LoadProgress], None]


class Session(Wire):
    """samovar's routes on one server; what they raise, Wire says. Threads may share it."""

    def __init__(self, server: Server, sharing: Session | None = None) -> None:
        super().__init__(server, sharing)
        self._versions: Mapping[str, str] | None = None if sharing is None else sharing._versions

    def twin(self) -> Session:
        """Another session over the same connections, to be aborted by itself; as cheap as an object."""
        return Session(self.server, sharing=self)

    def versions(self) -> Mapping[str, str]:
        """What the server runs on, by name; asked once."""
        if self._versions is None:
            self._versions = self._call("GET", "").get("versions", {})
        return self._versions

    def explained(self, error: ServerError, body: Mapping[str, Any] | None) -> ServerError:
        """`error`; where it says that there is no such model, with the nearest that there is."""
        name = (body or {}).get("model")
        if error.code != "model_not_found" or not name:
            return error
        near = None
        with suppress(SamovarError):  # the first error is the one to tell
            near = nearest_model(name, [known.id for known in self.models()])
        return error.with_hint(f" Did you mean {near}?") if near else error

    def models(self) -> list[Model]:
        """The models that a request can name: on disk or in memory."""
        return [Model.from_json(told) for told in self._call("GET", "/models")["data"]]

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, those being loaded, and those whose last load failed."""
        return [LoadedModel.from_json(told) for told in self._call("GET", "/models/loaded")["loaded_models"]]

    def load(
        self,
        model: str | None = None,
        *,
        ttl: float | None = None,
        pin: bool | None = None,
        options: LoadOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> LoadedModel:
        """Bring `model` (None: the server's default) into memory and return when it is there.

        `ttl` is for how many seconds it stays unused in memory, 0 for ever, None the server's default;
        a pinned model is never evicted. A model that is already there answers at once, unless `options`
        ask for another copy than that.
        """
        wishes = {"model": model, "ttl": ttl, "pin": pin, "stream": True, **asdict(options or LoadOptions())}
        loaded: LoadedModel | None = None
        for event in self.stream("/models/load", _without_none(wishes)):
            if isinstance(event, Comment):
                continue
            if "fraction" not in event:
                loaded = LoadedModel.from_json(event)
            elif on_progress is not None:
                on_progress(LoadProgress.from_json(event))
        if loaded is None:
            raise ConnectionLost(f"The server at {self.server.url} went away while the model was loading.")
        return loaded

    def check_model(self, model: str) -> None:
        """ServerError, with the nearest name, when there is no `model`."""
        try:
            self.estimate(model)
        except ServerError as error:
            if error.code == "model_not_found":
                raise

    def unload(self, model: str, *, now: bool = False) -> list[LoadedModel]:
        """Free the memory of `model`; unless `now`, its running requests end first."""
        answer = self._call("POST", "/models/unload", {"model": model, "mode": "now" if now else "drain"})
        return [LoadedModel.from_json(told) for told in answer["unloaded_models"]]

    def unload_all(self, *, now: bool = False) -> list[LoadedModel]:
        """Free the memory of every model."""
        answer = self._call("POST", "/models/unload-all", {"mode": "now" if now else "drain"})
        return [LoadedModel.from_json(told) for told in answer["unloaded_models"]]

    def diagnosis(self) -> Diagnosis:
        """Whether the server can bring models to its disk and run them."""
        return Diagnosis.from_json(self._call("GET", "/diagnosis"))

    def memory(self) -> list[DeviceMemory]:
        """The memory of each device, and what models take of it."""
        return [DeviceMemory.from_json(told) for told in self._call("GET", "/models/stats")["memory"]]

    def estimate(self, model: str, options: LoadOptions | None = None) -> Estimate:
        """What a load would take, and whether there is room for it; before a download of the model, too."""
        wishes = {"model": model, **asdict(options or LoadOptions())}
        return Estimate.from_json(self._call("POST", "/models/estimate", _without_none(wishes)))

    def events(self) -> Generator[Event]:
        """What happens to models, downloads and queues, from now on: an event "open", then the server's."""
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        with self._answer("GET", "/events", timeout=timeout) as response:
            yield Event(OPEN)
            for heard in parse_events(response.iter_bytes()):
                if isinstance(heard, Data):
                    yield Event(heard.event, json.loads(heard.text))

    def score(self, text: str, *, model: str | None = None, alternatives: int = 5) -> list[TokenScore]:
        """How probable the model finds each token of `text`, with the likeliest `alternatives` (up to 20)."""
        body = {"model": model, "prompt": text, "max_tokens": 0, "echo": True, "logprobs": alternatives}
        answer = self._call("POST", "/completions", _without_none(body))
        return TokenScore.from_logprobs(answer["choices"][0]["logprobs"])

    def tokenize(self, text: str, *, model: str | None = None) -> list[int]:
        """The ids of the tokens that `text` is to the model, without what goes around a prompt."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        tokens: list[int] = self._call("POST", "/tokenize", _without_none(body))["tokens"]
        return tokens

    def download(
        self,
        url: str,
        *,
        revision: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        quantization: str | None = None,
        destination: str | None = None,
    ) -> Download:
        """Begin to bring a model to the server's disk, or join the equal download that runs.

        `url` is a repo of the Hugging Face Hub, its page's address, or an alias; `include` and `exclude` are
        globs; `quantization` picks a GGUF file by its tag, such as Q4_K_M. Answers at once.
        """
        return Download.from_json(
            self._call(
                "POST",
                "/models/download",
                _wanted(url, revision, include, exclude, quantization)
                | _without_none({"destination": destination}),
            )
        )

    def downloads(self) -> list[Download]:
        """All downloads, the latest first."""
        return [Download.from_json(told) for told in self._call("GET", "/models/download")["downloads"]]

    def find_download(self, job_id: str) -> Download:
        """How far one download is."""
        return Download.from_json(self._call("GET", f"/models/download/{quote(job_id, safe='')}"))

    def cancel_download(self, job_id: str) -> Download:
        """Stop a download; what has come stays, for a later one to go on from."""
        return Download.from_json(self._call("DELETE", f"/models/download/{quote(job_id, safe='')}"))

    def resume_download(self, job_id: str) -> Download:
        """Go on with a download that was cancelled or has failed."""
        return Download.from_json(self._call("POST", f"/models/download/{quote(job_id, safe='')}/resume"))

    def verify_repo(
        self,
        url: str,
        *,
        revision: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        quantization: str | None = None,
    ) -> RepoCheck:
        """What `download` would bring, or what stands in its way; nothing is fetched."""
        body = _wanted(url, revision, include, exclude, quantization)
        return RepoCheck.from_json(self._call("POST", "/models/verify-repo", body))

    def inventory(self) -> list[StoredModel]:
        """The models on the server's disk, incomplete ones included."""
        return [StoredModel.from_json(told) for told in self._call("GET", "/models/inventory")["models"]]

    def clean(self, *, older_than_days: float = 0.0, dry_run: bool = False) -> Cleaning:
        """Free the server's disk of what is no model; with `dry_run` only say what would go.

        That is parts of downloads, blobs that nothing refers to, and conversions of models that are gone,
        unless somebody is at work on them or has written to them since.
        """
        body = {"older_than_days": older_than_days, "dry_run": dry_run}
        return Cleaning.from_json(self._call("POST", "/models/clean", body))

    def search(self, text: str, *, limit: int = 20) -> list[FoundModel]:
        """Models of the Hugging Face Hub whose names contain `text`."""
        told = self._call("GET", f"/models/search?q={quote(text, safe='')}&limit={limit}")
        return [FoundModel.from_json(found) for found in told["models"]]

    def delete(self, model: str) -> int:
        """Take a model (`org/name`, or one revision of it: `org/name@revision`) off the disk; bytes freed."""
        freed: int = self._call("DELETE", f"/models/{quote(model)}")["freed_bytes"]
        return freed


_current: tuple[int, Session] | None = None
_choosing = threading.Lock()


def current_session() -> Session:
    """The session with the server that `find_server` finds now. Connections are kept while it is the same."""
    global _current
    server, pid = find_server(), os.getpid()
    with _choosing:
        if _current is not None and _current[0] != pid:
            _current = None  # a forked child must not use its parent's connections
        if _current is not None and _current[1].server != server:
            _current[1].close()
            _current = None
        if _current is None:
            _current = (pid, Session(server))
        return _current[1]


def nearest_model(name: str, known: Sequence[str]) -> str | None:
    """The model that `name` was probably meant to be; `known` names may be meant without their owner."""
    short = nearest(name.rpartition("/")[2], [full.rpartition("/")[2] for full in known])
    return next((full for full in known if full.rpartition("/")[2] == short), None)


def _without_none(wishes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wishes.items() if value is not None}


def _wanted(
    url: str,
    revision: str | None,
    include: Sequence[str],
    exclude: Sequence[str],
    quantization: str | None,
) -> dict[str, Any]:
    lists = {"include": list(include) or None, "exclude": list(exclude) or None}
    return _without_none({"url": url, "revision": revision, "quantization": quantization, **lists})
