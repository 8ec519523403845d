"""One generation, from the request to the result, its text arriving piece by piece."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from samovar.errors import ConnectionLost, SamovarError, ServerError
from samovar.records import LoadedModel, LoadProgress, TokenScore
from samovar.request import Request, drawn_seed
from samovar.result import Choice, FinishReason, Generation, Origin, Timing, Usage
from samovar.session import OnProgress, Session
from samovar.sse import Comment

Piece = tuple[int, str]
"""Which of the answers (from 0 on), and what was added to it."""


@dataclass
class _Answer:
    """What has come of one answer."""

    pieces: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Run:
    """A generation under way. `pieces` does the work; `result` may be asked for at any time.

    Without a seed in `request` one is drawn.
    """

    def __init__(
        self, session: Session, request: Request, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.request = request if request.seed is not None else replace(request, seed=drawn_seed())
        self._session = session
        self._clock = clock
        self._answers = [_Answer() for _ in range(max(request.n or 1, 1))]
        self._loaded: LoadedModel | None = None
        self._versions: Mapping[str, str] = {}
        self._usage: Usage | None = None
        self._started = clock()
        self._sent: float | None = None
        self._taken_up: float | None = None
        self._first: float | None = None
        self._last: float | None = None
        self._ended: float | None = None

    def pieces(self, on_progress: OnProgress | None = None) -> Generator[str]:
        """`pieces_of_all`, of the first answer only."""
        with closing(self.pieces_of_all(on_progress)) as pieces:
            for index, text in pieces:
                if index == 0:
                    yield text

    def pieces_of_all(self, on_progress: OnProgress | None = None) -> Generator[Piece]:
        """Bring the model into memory, then yield the text as it arrives.

        Leaving the loop, by an exception too, closes the connection, and with it the server ends the
        generation. An error carries what had arrived as `partial`.
        """
        try:
            self._loaded = self._session.load(
                self.request.model, ttl=self.request.ttl, options=self.request.load, on_progress=on_progress
            )
            with suppress(ServerError):  # one that does not tell them can generate all the same
                self._versions = self._session.versions()
            with closing(self._events(on_progress)) as events:
                for event in events:
                    yield from self._take(event)
            if any(answer.finish_reason is None for answer in self._answers):
                raise ConnectionLost(
                    f"{self._session.server.url} broke off the answer. What had come is kept; run this again."
                )
        except SamovarError as error:
            self._ended = self._clock()
            error.partial = self.result("error")
            raise
        finally:
            self._ended = self._clock()

    def result(self, finish_reason: FinishReason | None = None) -> Generation:
        """What there is so far, ended by `finish_reason` unless the answer had come to its own end."""
        first, *others = (
            Choice(
                "".join(answer.pieces),
                answer.finish_reason or finish_reason or "error",
                tuple(answer.scores) if self.request.logprobs is not None else None,
            )
            for answer in self._answers
        )
        return Generation(
            text=first.text,
            finish_reason=first.finish_reason,
            model=self._loaded.model if self._loaded else self.request.model or "",
            usage=self._usage,
            timing=self._timing(),
            request=self.request.parameters(),
            logprobs=first.logprobs,
            more=tuple(others),
            origin=self._origin(),
        )

    def _origin(self) -> Origin:
        loaded = self._loaded
        return Origin(
            revision=loaded.revision if loaded else None,
            backend=loaded.backend if loaded else "",
            device=loaded.device if loaded else "",
            dtype=loaded.dtype if loaded else "",
            quantization=loaded.quantization if loaded else "",
            versions={"client": version("samovar"), **self._versions},
        )

    def _events(self, on_progress: OnProgress | None) -> Generator[dict[str, Any]]:
        self._sent = self._clock()
        body = self.request.body() | {"stream": True, "stream_options": {"include_usage": True}}
        with closing(self._session.stream("/chat/completions", body)) as stream:
            for event in stream:
                if not isinstance(event, Comment):
                    yield event
                elif on_progress is not None and self._first is None:  # later it only bridges a silence
                    on_progress(_progress_in(event))

    def _take(self, event: dict[str, Any]) -> list[Piece]:
        """Note what `event` says; the text that it adds."""
        if self._taken_up is None:
            self._taken_up = self._clock()
        if event.get("usage"):
            usage = event["usage"]
            self._usage = Usage(usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
        pieces = []
        for choice in event["choices"]:
            index = choice["index"]
            answer = self._answers[index]
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            answer.scores += map(TokenScore.from_chat, (choice.get("logprobs") or {}).get("content") or ())
            if text := choice["delta"].get("content"):
                answer.pieces.append(text)
                pieces.append((index, text))
        if pieces:
            self._last = self._clock()
            self._first = self._last if self._first is None else self._first
        return pieces

    def _timing(self) -> Timing:
        ended = self._clock() if self._ended is None else self._ended
        sent = ended if self._sent is None else self._sent
        tokens_per_second = ttft = None
        if self._first is not None and self._last is not None:
            ttft = _rounded(self._first - sent)
            if self._usage is not None and self._last > self._first:
                later = self._usage.completion_tokens - len(self._answers)  # without each one's first
                tokens_per_second = _rounded(later / (self._last - self._first))
        return Timing(
            load_s=_rounded(sent - self._started),
            queue_s=None if self._taken_up is None else _rounded(self._taken_up - sent),
            ttft_s=ttft,
            total_s=_rounded(ended - self._started),
            tokens_per_second=tokens_per_second,
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
