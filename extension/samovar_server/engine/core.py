"""The step loop: a thread that owns the model and turns queued sequences into streams of output."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from samovar_server.engine.runner import ModelRunner
from samovar_server.engine.sampler import sample
from samovar_server.engine.scheduler import Chunk, Scheduler
from samovar_server.engine.scoring import score
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.engine.slots import SlotPool
from samovar_server.protocol.generation import FinishReason
from samovar_server.protocol.sampling import TokenScore

log = logging.getLogger(__name__)

Delivery = list[tuple[Sequence, Output]]


@dataclass(slots=True)
class EngineStats:
    """Counters since the start. `busy_seconds` is time spent in steps."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    busy_seconds: float = 0.0


class Engine:
    """Generates for many sequences at once.

    `submit` and `abort` may be called from any thread. Outputs of a step are handed to `deliver` in one
    call on the engine's thread, which is to pass them on to where sequences' `emit` belongs.
    `on_failure` is called when a step fails: the model's state is unknown then, and the engine stops.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        slots: int,
        max_queue: int,
        deliver: Callable[[Delivery], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.stats = EngineStats()
        self._runner = runner
        self._pool = SlotPool(slots)
        self._scheduler = Scheduler(self._pool, max_queue, resumes=runner.resumes)
        self._deliver = deliver
        self._on_failure = on_failure
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End after the running step; sequences that are not finished stay so."""
        self._commands.put(None)
        self._thread.join()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence. QueueFull when too many wait."""
        with self._lock:
            self._scheduler.add(sequence)
        self._commands.put(_nothing)  # wakes the thread

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence before the next step; it emits nothing more."""
        self._commands.put(lambda: self._scheduler.remove(sequence))

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._scheduler.waiting)

    def _run(self) -> None:
        idle = True
        while self._take_commands(wait=idle):
            with self._lock:
                plan = self._scheduler.plan()
            idle = not plan
            if idle:
                continue
            began = time.perf_counter()
            try:
                if plan.decode:
                    self._decode(plan.decode)
                for chunk in plan.prefill:
                    self._prefill(chunk)
            except Exception as error:
                log.exception("A step of the engine failed")
                self._on_failure(error)
                return
            self.stats.steps += 1
            self.stats.busy_seconds += time.perf_counter() - began

    def _take_commands(self, *, wait: bool) -> bool:
        """Carry out what was asked meanwhile; False when the engine is to end."""
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            with self._lock:
                command()
            wait = False

    def _decode(self, sequences: list[Sequence]) -> None:
        logits = self._runner.decode(
            [sequence.slot for sequence in sequences],
            [sequence.output[-1] for sequence in sequences],
            [sequence.position for sequence in sequences],
        )
        self._advance(sequences, logits)

    def _prefill(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        if chunk.copy is not None:
            self._runner.copy_prefix(chunk.copy.source, chunk.copy.slot, chunk.copy.cached_tokens)
        tokens = sequence.prompt[chunk.start : chunk.end]
        scored = sequence.prompt_logprobs is not None
        logits = self._runner.prefill(sequence.slot, tokens, chunk.start, every=scored)
        self.stats.prompt_tokens += len(tokens)
        if sequence.prompt_logprobs is not None:
            following = sequence.prompt[chunk.start + 1 : chunk.end + 1]
            sequence.prompt_scores += score(logits[: len(following)], following, sequence.prompt_logprobs)
        if not chunk.is_last:
            return
        self.stats.cached_tokens += sequence.cached_tokens
        if sequence.max_tokens == 0:
            self._finish_and_deliver([(sequence, Output("", 0, "length"))])
        else:
            self._advance([sequence], logits[-1:])

    def _advance(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Choose each sequence's next token, turn it into text, and tell."""
        outputs: Delivery = []
        for index, (sequence, token) in enumerate(zip(sequences, sample(logits, sequences), strict=True)):
            sequence.output.append(token)
            scored = None
            if sequence.logprobs is not None:
                (scored,) = score(logits[index : index + 1], [token], sequence.logprobs)
            outputs.append((sequence, _output(sequence, token, scored)))
        self.stats.generated_tokens += len(sequences)
        self._finish_and_deliver(outputs)

    def _finish_and_deliver(self, outputs: Delivery) -> None:
        with self._lock:
            for sequence, output in outputs:
                if output.is_last:
                    self._scheduler.remove(sequence)
        self._deliver(outputs)


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
