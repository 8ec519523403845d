"""How an engine that is not samovar's own is spoken to: what goes out to it, and what its refusals mean.

Answers that are none of these pass as they come: nothing that streams is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from http import HTTPStatus
from typing import Any

from samovar_server.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    SamovarError,
    UpstreamFailed,
)
from samovar_server.loader.options import LoadOptions

OWN_FIELDS = frozenset(field.name for field in fields(LoadOptions)) | {"ttl", "exact"}
"""Request fields that are meant for samovar, and that other engines refuse or misread."""

SALT = "{salt}"

_WINDOW_WORDS = ("context length", "context size", "context window", "exceed_context_size")
_SHOWN_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's ways. `engine` is its name in messages.

    `model` is what it calls the model; None: it takes any name. `isolating` are the fields by which it keeps
    what it has computed of a prompt from other users, the value SALT standing for a text of the user's own.
    """

    engine: str
    model: str | None = None
    isolating: Mapping[str, str | bool] = field(default_factory=dict)
    added: Mapping[str, str | bool] = field(default_factory=dict)
    """Fields to add to every request."""

    def isolated(self, salt: str) -> Dialect:
        """The dialect of one user, for whom `salt` stands."""
        return replace(
            self,
            added={name: salt if value == SALT else value for name, value in self.isolating.items()},
        )

    def request(self, body: bytes) -> bytes:
        """The body to send for a client's `body`, which is a JSON object; streams are asked for usage."""
        asked = json.loads(body)
        if self.model is None and not asked.get("stream") and not self.added:
            return body
        if self.model is not None:
            asked = {name: value for name, value in asked.items() if name not in OWN_FIELDS}
            asked["model"] = self.model
        if asked.get("stream"):
            asked["stream_options"] = {"include_usage": True}
        return json.dumps(asked | self.added).encode()

    def error(self, status: int, body: bytes, retry_after: str | None = None) -> SamovarError:
        """What a refusal means for the client, in samovar's terms."""
        message, param, words = _read(body)
        said = f"{self.engine}: {message or HTTPStatus(status).phrase}"
        wait = int(retry_after) if retry_after is not None and retry_after.isdecimal() else None
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            # Not the client's credentials, so no 401; and what it says may quote the key.
            return UpstreamFailed(
                f"{self.engine} refuses this server's credentials. "
                "Whoever runs this server can set them right."
            )
        if 400 <= status < 500 and any(word in words for word in _WINDOW_WORDS):
            return ContextLengthExceeded(said, param=param)
        if status == HTTPStatus.NOT_FOUND:
            return ModelNotFound(said, param="model")
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            return QueueFull(said, retry_after=wait if wait is not None else 1)
        return InvalidRequest(said, param=param) if 400 <= status < 500 else UpstreamFailed(said)


def _read(body: bytes) -> tuple[str, str | None, str]:
    """Message, field at fault, and all words of it in lower case, from the shapes that servers use."""
    try:
        told: Any = json.loads(body)
    except ValueError:
        return "", None, ""
    error = told.get("error", told) if isinstance(told, dict) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        return "", None, ""
    message, param = error.get("message"), error.get("param")
    text = message[:_SHOWN_CHARACTERS] if isinstance(message, str) else ""
    words = f"{text} {error.get('type')} {error.get('code')}".lower()
    return text, param if isinstance(param, str) else None, words
