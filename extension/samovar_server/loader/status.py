"""Asking a worker how it is."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from pydantic import TypeAdapter, ValidationError

ANSWER_SECONDS = 5.0
"""A worker's HTTP side has little to do; a longer silence is no answer."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker answers to `GET /status`; None or 0 where its engine does not tell.

    `running` and `waiting` count sequences, the others tokens: `prompt_tokens` were computed,
    `cached_tokens` were found in the KV cache, `draft_tokens` were computed ahead of their time, and of those
    `accepted_tokens` were right.
    """

    memory_bytes: int | None = None
    running: int | None = None
    waiting: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    steps: int | None = None

    @property
    def computed_tokens(self) -> int:
        """All that went through the model, which only rises."""
        return self.prompt_tokens + self.generated_tokens


_STATUS: TypeAdapter[WorkerStatus] = TypeAdapter(WorkerStatus)


async def ask(client: httpx.AsyncClient, url: str, secret: str) -> WorkerStatus | None:
    """The status of the worker at `url`; None when it does not answer.

    Engines that have no such route answer something else, which at least shows that they live.
    """
    try:
        answer = await client.get(
            f"{url}/status", headers={"Authorization": f"Bearer {secret}"}, timeout=ANSWER_SECONDS
        )
    except httpx.TransportError:
        return None
    try:
        return _STATUS.validate_json(answer.content) if answer.is_success else WorkerStatus()
    except ValidationError:
        return WorkerStatus()
