"""The step loop: it has the compute thread to itself and turns queued sequences into streams of output."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.cores import Cores
from samovar_server.engine.pace import Pace
from samovar_server.engine.row_cost import RowCost
from samovar_server.engine.runner import ModelRunner
from samovar_server.engine.sampler import sample
from samovar_server.engine.scheduler import Chunk, Plan, Scheduler
from samovar_server.engine.scoring import score
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.engine.slots import SlotPool
from samovar_server.engine.step import Logits, NewToken, Piece
from samovar_server.protocol.generation import FinishReason
from samovar_server.protocol.sampling import TokenScore

log = logging.getLogger(__name__)

T = TypeVar("T")

NOTHING_KNOWN = RowCost()

Delivery = list[tuple[Sequence, Output]]


@dataclass(slots=True)
class EngineStats:
    """Counters since the start. `busy_seconds` is time spent in steps.

    `draft_tokens` were computed ahead of their time, `accepted_tokens` of them were right.
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    busy_seconds: float = 0.0


@dataclass(slots=True)
class Advance:
    """A sequence that gets its next token in a step, by the first of its `rows` of the logits.

    The rows behind it hold as long as the draft's tokens turn out to be right, one after the other; so many
    are `accepted`.
    """

    sequence: Sequence
    draft: Seq[int] = ()
    rows: list[int] = field(default_factory=list)
    accepted: int = 0


class Engine:
    """Generates for many sequences at once, `reserve` of the `slots` being for those that are `express`.

    `room` and `speculative` are the Scheduler's. `cost` is where it begins to follow what rows cost. `cores`
    are shared with other workers; None: they are not.

    `submit` and `abort` may be called from any thread. Outputs of a step are handed to `deliver` in one
    call on the compute thread, which is to pass them on to where sequences' `emit` belongs.
    `on_failure` is called when a step fails: the model's state is unknown then, and the engine stops.
    """

    def __init__(
        self,
        runner: ModelRunner,
        compute: ComputeThread,
        *,
        slots: int,
        reserve: int = 0,
        max_queue: int,
        room: int | None = None,
        speculative: bool = False,
        cost: RowCost = NOTHING_KNOWN,
        cores: Cores | None = None,
        deliver: Callable[[Delivery], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.stats = EngineStats()
        self._runner = runner
        self._pool = SlotPool(slots)
        self._scheduler = Scheduler(
            self._pool, max_queue, reserve=reserve, resumes=runner.resumes, room=room, speculative=speculative
        )
        self._pace = Pace()
        self._cost = cost
        self._cores = cores if cores is not None else Cores()
        self._deliver = deliver
        self._on_failure = on_failure
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._compute = compute
        self._ended: Future[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._ended = self._compute.call(self._run)

    def stop(self) -> None:
        """End after the running step; sequences that are not finished stay so."""
        self._commands.put(None)
        if self._ended is not None:
            self._ended.result()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence. QueueFull when too many wait."""
        with self._lock:
            self._scheduler.add(sequence)
        self._commands.put(_nothing)  # wakes the thread

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence before the next step; it emits nothing more."""
        self._commands.put(partial(self._remove, sequence))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """`function` on the compute thread, between two steps; its result or exception."""
        future: Future[T] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - whoever waits for the result gets it
                future.set_exception(error)

        self._commands.put(carry_out)
        return future

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._scheduler.waiting)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            log.exception("A step of the engine failed")
            self._on_failure(error)

    def _work(self) -> None:
        idle = True
        while self._take_commands(wait=idle):
            with self._lock:
                plan = self._scheduler.plan(self._pace, self._cost)
            idle = not plan
            if idle:
                self._cores.end()
                continue
            self._cores.begin()
            began = time.perf_counter()
            self._step(plan)
            seconds = time.perf_counter() - began
            self.stats.steps += 1
            self.stats.busy_seconds += seconds
            self._follow(plan, seconds)
        self._cores.end()

    def _follow(self, plan: Plan, seconds: float) -> None:
        """Learn from what the step took."""
        rows = len(plan.decode)
        if not plan.prefill:
            self._cost = self._cost.after(rows, plan.drafted, seconds)
            seconds -= self._cost.row * plan.drafted  # what it would have taken without
        self._pace = self._pace.after(seconds, rows=rows, prefilled=plan.prefilled)

    def _take_commands(self, *, wait: bool) -> bool:
        """Carry out what was asked meanwhile; False when the engine is to end."""
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            wait = False

    def _remove(self, sequence: Sequence) -> None:
        with self._lock:
            self._scheduler.remove(sequence)

    def _step(self, plan: Plan) -> None:
        """One forward pass, and what follows from its logits for each sequence."""
        for copy in [chunk.copy for chunk in plan.prefill if chunk.copy is not None]:
            self._runner.copy_prefix(copy.source, copy.slot, copy.cached_tokens)
        for trim in plan.trims:
            self._runner.trim(trim.slot, trim.length)
        pieces = [_piece(chunk) for chunk in plan.prefill]
        tokens, advances = _decoded(plan)
        logits = self._runner.run(tokens, pieces)
        done = len(tokens)
        ended: Delivery = []
        for chunk, piece in zip(plan.prefill, pieces, strict=True):
            sequence = chunk.sequence
            mine = logits[done : done + piece.rows]
            done += piece.rows
            self.stats.prompt_tokens += chunk.end - chunk.start
            if sequence.prompt_logprobs is not None:
                following = sequence.prompt[chunk.start + 1 : chunk.end + 1]
                sequence.prompt_scores += score(mine[: len(following)], following, sequence.prompt_logprobs)
            if not chunk.is_last:
                continue
            self.stats.cached_tokens += sequence.cached_tokens
            if sequence.max_tokens == 0:
                ended.append((sequence, Output("", 0, "length")))
            else:
                advances.append(Advance(sequence, rows=[done - 1]))
        self._finish_and_deliver(ended + self._advance(advances, logits))

    def _advance(self, advances: list[Advance], logits: Tensor) -> Delivery:
        """Choose each sequence's next token by its row of `logits`, and turn it into text; as long as that
        was the draft's, the token behind it, too.
        """
        outputs: Delivery = []
        going_on, ahead = advances, 0
        while going_on:
            rows = [advance.rows[ahead] for advance in going_on]
            first, last = rows[0], rows[-1] + 1
            if rows == list(range(first, last)):  # as all newest tokens' are: no copy
                mine = logits[first:last]
            else:
                mine = logits[torch.tensor(rows, dtype=torch.long, device=logits.device)]
            tokens = sample(mine, [advance.sequence for advance in going_on])
            right = []
            for index, (advance, token) in enumerate(zip(going_on, tokens, strict=True)):
                output = _append(advance.sequence, token, mine[index])
                outputs.append((advance.sequence, output))
                if ahead < len(advance.draft) and advance.draft[ahead] == token:
                    advance.accepted += 1
                    if not output.is_last:
                        right.append(advance)
            going_on, ahead = right, ahead + 1
        for advance in advances:
            self.stats.draft_tokens += len(advance.draft)
            self.stats.accepted_tokens += advance.accepted
            if advance.draft and advance.sequence.drafter is not None:
                advance.sequence.drafter.learn(len(advance.draft), advance.accepted)
        self.stats.generated_tokens += len(outputs)
        return outputs

    def _finish_and_deliver(self, outputs: Delivery) -> None:
        with self._lock:
            for sequence, output in outputs:
                if output.is_last:
                    self._scheduler.remove(sequence)
        if outputs:
            self._deliver(outputs)


def _piece(chunk: Chunk) -> Piece:
    sequence = chunk.sequence
    if sequence.prompt_logprobs is not None:
        wanted = Logits.EVERY
    else:
        wanted = Logits.LAST if chunk.is_last else Logits.NONE
    return Piece(
        sequence.slot, sequence.prompt[chunk.start : chunk.end], chunk.start, wanted, sequence.adapter
    )


def _decoded(plan: Plan) -> tuple[list[NewToken], list[Advance]]:
    """What a step decodes, in its order, and in which rows of the logits it is for whom."""
    advances = [Advance(*each) for each in zip(plan.decode, plan.drafts, strict=True)]
    tokens: list[NewToken] = []
    for ahead in range(max(map(len, plan.drafts), default=0) + 1):
        for advance in advances:
            if ahead > len(advance.draft):
                continue
            sequence = advance.sequence
            token = advance.draft[ahead - 1] if ahead else sequence.output[-1]
            advance.rows.append(len(tokens))
            tokens.append(NewToken(sequence.slot, token, sequence.position + ahead, sequence.adapter, ahead))
    return tokens, advances


def _append(sequence: Sequence, token: int, logits: Tensor) -> Output:
    """Add `token`, which was chosen by `logits` [vocabulary], to `sequence`."""
    sequence.output.append(token)
    scored = None
    if sequence.logprobs is not None:
        (scored,) = score(logits[None], [token], sequence.logprobs)
    return _output(sequence, token, scored)


def _output(sequence: Sequence, token: int, scored: TokenScore | None) -> Output:
    count = len(sequence.output)
    grammar = sequence.grammar
    if grammar is not None and grammar.failure is not None:
        return Output("", count, error=grammar.failure)
    if token in sequence.sampling.stop_tokens:
        return Output(sequence.text.flush(), count, "stop", scored)
    text = sequence.text.add(token)
    reason: FinishReason | None = None
    complete = grammar is not None and grammar.ended
    if not sequence.text.stopped and (complete or count >= sequence.max_tokens):
        text += sequence.text.flush()
        reason = "stop" if complete else "length"
    if sequence.text.stopped:
        reason = "stop"
    return Output(text, count, reason, scored)


def _nothing() -> None:
    pass
