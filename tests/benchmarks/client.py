"""One streaming completion over HTTP, timed. The same code for every server that is measured."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True)
class Endpoint:
    """Where completions are asked for. `fields` are what this server needs beside OpenAI's fields."""

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Stream:
    """What one request experienced. Times are `time.perf_counter()` seconds.

    `arrivals` holds the time of every event that carried text. `counted` is what the server says it
    generated; None where it says nothing or the stream was cut off.
    """

    sent: float
    arrivals: list[float] = field(default_factory=list)
    counted: int | None = None
    prompt_tokens: int | None = None
    finished: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that came: as the server counts them, else the events with text."""
        return len(self.arrivals) if self.counted is None else self.counted

    @property
    def first_token(self) -> float | None:
        """Seconds from the request to its first text."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between one text and the next."""
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def complete(
    client: httpx.AsyncClient, endpoint: Endpoint, prompt: str, max_tokens: int, *, into: Stream | None = None
) -> Stream:
    """Send one request and read its stream to the end. `into` lets a caller watch it grow.

    Raises httpx.HTTPStatusError, and RuntimeError for an error within the stream.
    """
    stream = into or Stream(sent=0.0)
    body = {
        "model": endpoint.model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **endpoint.fields,
    }
    stream.sent = time.perf_counter()
    async with client.stream(
        "POST", f"{endpoint.url}/completions", json=body, headers=dict(endpoint.headers)
    ) as response:
        if response.is_error:
            await response.aread()
            raise RuntimeError(f"{response.status_code} from {endpoint.url}: {response.text[:500]}")
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                note(stream, json.loads(line.removeprefix("data: ")), time.perf_counter())
    stream.finished = True
    return stream


def note(stream: Stream, event: Mapping[str, Any], now: float) -> None:
    """Add one event of a stream."""
    if "error" in event:
        raise RuntimeError(f"the stream ended with an error: {event['error']}")
    if usage := event.get("usage"):
        stream.counted = usage["completion_tokens"]
        stream.prompt_tokens = usage["prompt_tokens"]
    if any(choice.get("text") for choice in event.get("choices", ())):
        stream.arrivals.append(now)


@dataclass(frozen=True)
class Run:
    """All streams of one load, and how long it took in seconds, until the last token or the time limit."""

    streams: Sequence[Stream]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that all streams received."""
        return sum(stream.tokens for stream in self.streams)

    @property
    def tokens_per_second(self) -> float:
        """Of all streams together."""
        return self.tokens / self.seconds


async def run(
    client: httpx.AsyncClient, endpoint: Endpoint, prompts: Sequence[str], max_tokens: int, limit: float
) -> Run:
    """Send all prompts at once, one client for each. What is not done after `limit` seconds is cut off."""
    streams = [Stream(sent=0.0) for _ in prompts]
    began = time.perf_counter()
    try:
        async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
            for prompt, stream in zip(prompts, streams, strict=True):
                group.create_task(complete(client, endpoint, prompt, max_tokens, into=stream))
    except TimeoutError:
        return Run(streams, time.perf_counter() - began)
    ends = [stream.arrivals[-1] for stream in streams if stream.arrivals]
    return Run(streams, max(ends, default=time.perf_counter()) - began)


def http_client() -> httpx.AsyncClient:
    """A client without limits of its own, for servers on this machine."""
    return httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(None, connect=10.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )
