"""An engine whose model is a rule: the next token is a function of all tokens before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.core import Delivery, Engine
from samovar_server.engine.cores import Cores
from samovar_server.engine.row_cost import RowCost
from samovar_server.engine.runner import ModelRunner
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.engine.step import NewToken, Piece
from samovar_server.engine.text import TextStream
from samovar_server.protocol.sampling import SamplingParams

VOCABULARY = 97

Rule = Callable[[Seq[int]], int]
"""The next token, as a function of all before it."""


class Digits:
    """Token n is the text "<n>"."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f"<{token}>" for token in token_ids)


class Bytes:
    """A tokenizer whose tokens are the bytes of a text."""

    def __init__(self, longest: int = 10**30) -> None:
        self.model_max_length = longest

    def __call__(self, text: str, verbose: bool) -> dict[str, list[int]]:
        assert not verbose, "transformers would warn of so long a text"
        return {"input_ids": list(text.encode())}


def text_of(tokens: list[int]) -> str:
    return Digits().decode(tokens)


def next_token(tokens: Seq[int]) -> int:
    """The rule: any lost, doubled or foreign position changes it."""
    value = 7
    for token in tokens:
        value = (value * 31 + token + 1) % 1_000_003
    return value % VOCABULARY


def repeating(tokens: Seq[int]) -> int:
    """A rule whose texts often say again what they have said."""
    fresh = next_token(tokens)
    return tokens[-7] if fresh % 6 and len(tokens) > 7 else fresh


def expected(prompt: Seq[int], count: int, rule: Rule = next_token) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(rule(tokens))
    return tokens[len(prompt) :]


class Call(NamedTuple):
    """A step: how many slots decoded, the lengths of the pieces, and how many tokens of drafts there were."""

    decoded: int
    pieces: list[int]
    drafted: int = 0


class RuleRunner(ModelRunner):
    """Stands for the model: keeps what was written to each slot, as the KV cache does."""

    resumes = True

    def __init__(self, slots: int, rule: Rule = next_token) -> None:
        self.rows: list[list[int]] = [[] for _ in range(slots)]
        self.rule = rule
        self.slots = slots
        self.drafted = [0] * slots
        self.filled = [0] * slots
        self.most_filled = 0
        self.calls: list[Call] = []
        self.gate: threading.Semaphore | None = None
        self.fail_next = False

    def run(self, tokens: Seq[NewToken], pieces: Seq[Piece]) -> torch.Tensor:
        if self.gate is not None:
            assert self.gate.acquire(timeout=30), "the test never let the step go"
        if self.fail_next:
            raise RuntimeError("out of order")
        newest = [new.slot for new in tokens if not new.ahead]
        drafted = len(tokens) - len(newest)
        self.calls.append(Call(len(newest), [len(piece.tokens) for piece in pieces], drafted))
        slots = newest + [piece.slot for piece in pieces]
        assert len(set(slots)) == len(slots), "a slot twice in a step"
        assert tokens == sorted(tokens, key=lambda new: new.ahead), "a draft before what it follows"
        logits = []
        for new in tokens:
            row = self.rows[new.slot]
            if not new.ahead:  # what a draft has left is written over, and there is nothing else to be
                assert len(row) - self.drafted[new.slot] <= new.position, "a token that was computed before"
                del row[new.position :]
                self.drafted[new.slot] = 0
            self.drafted[new.slot] += new.ahead > 0
            assert len(row) == new.position, "a token at a position that is not the next"
            row.append(new.token)
            logits.append(self._logits(row))
        for piece in pieces:
            row = self.rows[piece.slot]
            assert len(row) >= piece.start, "a chunk that does not follow on what the slot holds"
            row[piece.start :] = piece.tokens
            self.drafted[piece.slot] = 0
            logits += [self._logits(row[:end]) for end in range(len(row) - piece.rows + 1, len(row) + 1)]
        for slot in slots:
            self.filled[slot] = max(self.filled[slot], len(self.rows[slot]))
        self.most_filled = max(self.most_filled, sum(self.filled))
        return torch.stack(logits) if logits else torch.empty(0, VOCABULARY)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        assert len(self.rows[source]) >= length, "a prefix that the source does not hold"
        self.rows[target] = self.rows[source][:length]

    def trim(self, slot: int, length: int) -> None:
        row = self.rows[slot]
        self.drafted[slot] = max(self.drafted[slot] - max(len(row) - length, 0), 0)
        del row[length:]
        self.filled[slot] = min(self.filled[slot], length)

    def _logits(self, tokens: Seq[int]) -> torch.Tensor:
        logits = torch.zeros(VOCABULARY)
        logits[self.rule(tokens)] = 1
        return logits

    def growth_bytes(self, tokens: int | None) -> int:
        return 0


@dataclass
class Request:
    """A submitted sequence and what came of it."""

    prompt: list[int]
    sequence: Sequence
    outputs: list[Output] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    some: threading.Event = field(default_factory=threading.Event)

    @property
    def text(self) -> str:
        return "".join(output.text for output in self.outputs)

    @property
    def reason(self) -> str | None:
        return self.outputs[-1].finish_reason if self.outputs else None


class CheapRows(RowCost):
    """Rows that cost little, whatever steps take: a draft that is right one time in twenty is worth a try."""

    row = 0.05

    def after(self, sequences: int, drafted: int, seconds: float) -> RowCost:
        return self

    def step(self, rows: int) -> float:
        return 1.0


class Bench:
    """An Engine over a RuleRunner, with deliveries made on its own thread."""

    def __init__(
        self,
        slots: int = 4,
        max_queue: int = 100,
        reserve: int = 0,
        room: int | None = None,
        rule: Rule = next_token,
        speculative: bool = False,
        cores: Cores | None = None,
    ) -> None:
        self.runner = RuleRunner(slots, rule)
        self.failure: list[Exception] = []
        self.failed = threading.Event()
        self.engine = Engine(
            self.runner,
            ComputeThread(),
            slots=slots,
            reserve=reserve,
            max_queue=max_queue,
            room=room,
            speculative=speculative,
            cost=CheapRows(),
            cores=cores,
            deliver=self._deliver,
            on_failure=self._fail,
        )

    def __enter__(self) -> Bench:
        self.engine.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.runner.gate is not None:
            self.runner.gate.release(100_000)
        self.engine.stop()

    def submit(self, prompt: Seq[int], max_tokens: int, stops: Seq[str] = (), **fields: Any) -> Request:
        request: Request
        sequence = Sequence(
            prompt=list(prompt),
            sampling=fields.pop("sampling", None)
            or SamplingParams(temperature=0, stop_tokens=fields.pop("stop_tokens", frozenset())),
            max_tokens=max_tokens,
            text=TextStream(Digits(), stops),
            emit=lambda output: self._took(request, output),
            **fields,
        )
        request = Request(list(prompt), sequence)
        self.engine.submit(sequence)
        return request

    def check_answers(self, requests: Seq[Request], dropped: Seq[Request]) -> None:
        """Abort the `dropped` of `requests`; all others end, with the texts of the rule."""
        for request in dropped:
            self.engine.abort(request.sequence)
        for request in requests:
            if request not in dropped:
                assert request.done.wait(60)
                tokens = expected(request.prompt, request.sequence.max_tokens, self.runner.rule)
                assert request.text == text_of(tokens)

    def _took(self, request: Request, output: Output) -> None:
        assert not request.done.is_set(), "an output after the end"
        request.outputs.append(output)
        request.some.set()
        if output.is_last:
            request.done.set()

    def _deliver(self, outputs: Delivery) -> None:
        for sequence, output in outputs:
            sequence.emit(output)

    def _fail(self, error: Exception) -> None:
        self.failure.append(error)
        self.failed.set()
