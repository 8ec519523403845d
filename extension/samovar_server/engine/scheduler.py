"""Who computes what in the next step.

Every step decodes one token for each sequence that is past its prompt, and then prefills waiting prompts,
first come, first served, within a budget of tokens: a small one while others decode, so that a long prompt
stalls nobody, a large one otherwise. A sequence takes its slot when its turn to prefill comes, so that one
with the same prompt as its forerunner (a further sample, say) finds that prefix computed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from samovar_server.engine.attention import QUERY_BLOCK
from samovar_server.engine.sequence import Phase, Sequence
from samovar_server.engine.slots import Assignment, SlotPool
from samovar_server.errors import QueueFull

PREFILL_BUDGET_ALONE = 256
PREFILL_BUDGET_SHARED = QUERY_BLOCK
"""Prompt tokens per step while nobody, or somebody, decodes; multiples of QUERY_BLOCK."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt positions `start` to `end` (exclusive) to compute, after the `copy` when there is one."""

    sequence: Sequence
    start: int
    end: int
    copy: Assignment | None = None

    @property
    def is_last(self) -> bool:
        """Whether the prompt is done with this chunk."""
        return self.end == len(self.sequence.prompt)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: the rows to decode, then the chunks to prefill."""

    decode: list[Sequence]
    prefill: list[Chunk]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.decode or self.prefill)


class Scheduler:
    """Holds the waiting and the running sequences. Not thread-safe: the engine's thread owns it.

    `resumes` is the runner's: without it every prompt is computed whole, in one chunk, from its beginning.
    """

    def __init__(self, slots: SlotPool, max_queue: int, *, resumes: bool = True) -> None:
        self._slots = slots
        self._max_queue = max_queue
        self._resumes = resumes
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; QueueFull when `max_queue` wait already."""
        if len(self.waiting) >= self._max_queue:
            raise QueueFull(
                f"{len(self.waiting)} requests wait for this model already. Try again in a moment.",
                retry_after=1,
            )
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands; its slot is free from now on."""
        if sequence.phase is Phase.FINISHED:
            return
        if sequence.phase is Phase.WAITING:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._slots.release(sequence.slot)
        sequence.phase = Phase.FINISHED

    def plan(self) -> Plan:
        """The next step. Takes it for granted that the plan is carried out in its order."""
        decode = [sequence for sequence in self.running if sequence.phase is Phase.DECODE]
        budget = PREFILL_BUDGET_SHARED if decode else PREFILL_BUDGET_ALONE
        chunks: list[Chunk] = []
        while budget > 0 and (chunk := self._next_chunk(budget)) is not None:
            chunks.append(chunk)
            # A ragged end costs as much of the budget as a whole block does of the step's time.
            budget -= -(-(chunk.end - chunk.start) // QUERY_BLOCK) * QUERY_BLOCK
        return Plan(decode, chunks)

    def _next_chunk(self, budget: int) -> Chunk | None:
        sequence = next((s for s in self.running if s.phase is Phase.PREFILL), None)
        assignment = None
        if sequence is None:
            if not self.waiting or not self._slots.has_free:
                return None
            sequence = self.waiting.popleft()
            assignment = self._admit(sequence)
        start = sequence.prefilled
        end = min(start + budget, len(sequence.prompt)) if self._resumes else len(sequence.prompt)
        self._slots.prefilled(sequence.slot, sequence.prompt[start:end])
        sequence.prefilled = end
        if end == len(sequence.prompt):
            sequence.phase = Phase.DECODE
        copies = assignment is not None and assignment.source != assignment.slot
        return Chunk(sequence, start, end, assignment if copies else None)

    def _admit(self, sequence: Sequence) -> Assignment:
        # Scores of the prompt need its logits, which a reused prefix does not give.
        reuse = self._resumes and sequence.prompt_logprobs is None
        assignment = self._slots.acquire(sequence.prompt, reuse=reuse)
        sequence.slot = assignment.slot
        sequence.cached_tokens = sequence.prefilled = assignment.cached_tokens
        sequence.phase = Phase.PREFILL
        self.running.append(sequence)
        return assignment
