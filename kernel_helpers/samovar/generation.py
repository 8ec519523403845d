"""One generation, from the request to the result, its text arriving piece by piece."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from samovar.errors import ConnectionLost, SamovarError
from samovar.records import LoadProgress
from samovar.result import FinishReason, Generation, Timing, Usage
from samovar.session import OnProgress, Session
from samovar.stream import Comment

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, in the terms of OpenAI's API. None leaves a choice to the server.

    `ttl` is for how many seconds the model then stays unused in memory; 0 for ever.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ttl: float | None = None

    def body(self) -> dict[str, Any]:
        """The body of the chat completion, without what is not asked for."""
        chosen = {
            "model": self.model,
            "messages": list(self.messages),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop) or None,
            "ttl": self.ttl,
        }
        return {name: value for name, value in chosen.items() if value is not None}


def as_request(options: Namespace, messages: tuple[Message, ...]) -> Request:
    """The request that the options of `%%generate` and `samovar run` describe."""
    return Request(
        messages=messages,
        model=options.model,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
        max_tokens=options.max_tokens,
        stop=tuple(options.stop),
        ttl=options.ttl,
    )


def as_messages(prompt: str, system: str | None = None) -> tuple[Message, ...]:
    """A conversation of one question."""
    question = {"role": "user", "content": prompt}
    return ({"role": "system", "content": system}, question) if system else (question,)


class Run:
    """A generation under way. `pieces` does the work; `result` may be asked for at any time."""

    def __init__(
        self, session: Session, request: Request, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.request = request
        self._session = session
        self._clock = clock
        self._pieces: list[str] = []
        self._finish_reason: FinishReason | None = None
        self._model = request.model or ""
        self._usage: Usage | None = None
        self._started = clock()
        self._sent: float | None = None
        self._first: float | None = None
        self._last: float | None = None
        self._ended: float | None = None

    def pieces(self, on_progress: OnProgress | None = None) -> Generator[str]:
        """Bring the model into memory, then yield the text as it arrives.

        Leaving the loop, by an exception too, closes the connection, and with it the server ends the
        generation. An error carries what had arrived as `partial`.
        """
        try:
            self._load(on_progress)
            with closing(self._events(on_progress)) as events:
                for event in events:
                    piece = self._take(event)
                    if piece:
                        yield piece
            if self._finish_reason is None:
                raise ConnectionLost(
                    f"{self._session.server.url} broke off the answer. What had come is kept; run this again."
                )
        except SamovarError as error:
            error.partial = self.result("error")
            raise
        finally:
            self._ended = self._clock()

    def result(self, finish_reason: FinishReason | None = None) -> Generation:
        """What there is so far, ended by `finish_reason` unless the answer had come to its own end."""
        return Generation(
            text="".join(self._pieces),
            finish_reason=self._finish_reason or finish_reason or "error",
            model=self._model,
            usage=self._usage,
            timing=self._timing(),
            request=self.request.body(),
        )

    def _load(self, on_progress: OnProgress | None) -> None:
        loaded = self._session.load(self.request.model, ttl=self.request.ttl, on_progress=on_progress)
        self._model = loaded.model

    def _events(self, on_progress: OnProgress | None) -> Generator[dict[str, Any]]:
        self._sent = self._clock()
        body = self.request.body() | {"stream": True, "stream_options": {"include_usage": True}}
        with closing(self._session.stream("/chat/completions", body)) as stream:
            for event in stream:
                if not isinstance(event, Comment):
                    yield event
                elif on_progress is not None and self._first is None:  # later it only bridges a silence
                    on_progress(_progress_in(event))

    def _take(self, event: dict[str, Any]) -> str:
        """Note what `event` says; the text that it adds."""
        if event.get("usage"):
            usage = event["usage"]
            self._usage = Usage(usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
        piece = ""
        for choice in event["choices"]:
            piece += choice["delta"].get("content") or ""
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if piece:
            self._last = self._clock()
            self._first = self._last if self._first is None else self._first
            self._pieces.append(piece)
        return piece

    def _timing(self) -> Timing:
        ended = self._clock() if self._ended is None else self._ended
        sent = ended if self._sent is None else self._sent
        tokens_per_second = ttft = None
        if self._first is not None and self._last is not None:
            ttft = _rounded(self._first - sent)
            if self._usage is not None and self._last > self._first:
                tokens_per_second = _rounded((self._usage.completion_tokens - 1) / (self._last - self._first))
        return Timing(
            _rounded(sent - self._started), ttft, _rounded(ended - self._started), tokens_per_second
        )


def _rounded(measured: float) -> float:
    """Without the digits that a measurement does not have."""
    return round(measured, 4)


def _progress_in(comment: Comment) -> LoadProgress:
    """What a comment of the stream tells: `loading 43%`, when the model has to be loaded anew, or a wait."""
    percent = re.search(r"(\d+)%", comment.text)
    return LoadProgress(phase="loading", fraction=int(percent[1]) / 100) if percent else WAITING


WAITING = LoadProgress(phase="waiting", fraction=0.0)
"""The model is there, and busy with others or with the prompt."""
