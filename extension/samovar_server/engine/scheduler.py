"""Who computes what in the next step.

Every step decodes one token for each sequence that is past its prompt, and beside them prefills waiting
prompts, first come, first served, within a budget of tokens (`pace`): a small one while others decode, so
that a long prompt stalls nobody. A step without prompts checks the drafts of what follows (`draft`), as far
as they are worth their time. A sequence takes its slot when its turn to prefill comes, so that one with the
same prompt as its forerunner (a further sample, say) finds that prefix computed.

Where the KV cache's memory is bounded, sequences are let in and grow only while all of them can come to their
end (`admission`): the newest pause before memory could run out, and nobody is let in meanwhile.

Whose request comes when is the server's business; only sequences that it marks as `express` go before the
others, into slots that are kept for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice

from samovar_server.engine.admission import Claim, is_safe, may_grow
from samovar_server.engine.draft import Draft, Drafter, worthwhile
from samovar_server.engine.pace import LEAST_TOKENS, Pace, prefill_budget
from samovar_server.engine.row_cost import RowCost
from samovar_server.engine.sequence import Phase, Sequence
from samovar_server.engine.slots import Assignment, SlotPool, Trim
from samovar_server.errors import QueueFull


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
    """One step: the rows to decode, then the chunks to prefill; before them copies, then `trims`.

    `drafts` are the tokens that are to be computed behind the newest one of each sequence that decodes.
    """

    decode: list[Sequence]
    drafts: list[Seq[int]]
    prefill: list[Chunk]
    trims: list[Trim]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.decode or self.prefill)

    @property
    def prefilled(self) -> int:
        """Prompt tokens of the step."""
        return sum(chunk.end - chunk.start for chunk in self.prefill)

    @property
    def drafted(self) -> int:
        """Draft tokens of the step."""
        return sum(map(len, self.drafts))


class Scheduler:
    """Holds the waiting and the running sequences. Not thread-safe: the engine's thread owns it.

    `reserve` of the slots are for sequences that are `express`. `resumes` is the runner's: without it every
    prompt is computed whole, in one chunk, from its beginning. `room` are the positions that the KV cache
    may take in all slots together, at least one context window; None if it has its memory already. With
    `speculative` decoding, steps check drafts: only for a model that gives a token the same bits in any
    company.
    """

    def __init__(
        self,
        slots: SlotPool,
        max_queue: int,
        *,
        reserve: int = 0,
        resumes: bool = True,
        room: int | None = None,
        speculative: bool = False,
    ) -> None:
        self._slots = slots
        self._usual = len(slots.slots) - reserve
        self._max_queue = max_queue
        self._resumes = resumes
        self._room = room
        self._speculative = speculative
        self._claims: dict[Sequence, Claim] = {}
        self._pausing = False
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
        """Take a sequence out, wherever it stands; its slot is free from now on.

        One that found no place in the queue stands nowhere.
        """
        if sequence.phase is Phase.FINISHED:
            return
        if sequence.phase is Phase.WAITING:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._slots.release(sequence.slot, _decoded(sequence))
        sequence.phase = Phase.FINISHED

    def plan(self, pace: Pace, cost: RowCost) -> Plan:
        """The next step. Takes it for granted that the plan is carried out: first copies, then the rest."""
        decode = self._advancing()
        decode.sort(key=lambda sequence: sequence.slot)  # neighbouring slots are computed without gaps
        budget = prefill_budget(pace, len(decode), self._coming())
        chunks: list[Chunk] = []
        while budget >= LEAST_TOKENS and (chunk := self._next_chunk(budget, chunks)) is not None:
            chunks.append(chunk)
            budget -= chunk.end - chunk.start
        drafts = self._drafts(decode, chunks, cost)
        trims: list[Trim] = []
        if self._room is not None:
            held = {sequence.slot: claim.held for sequence, claim in self._claims.items()}
            trims = self._slots.fit(held, self._room)
        return Plan(decode, drafts, chunks, trims)

    def _advancing(self) -> list[Sequence]:
        """Who decodes a token in the next step; `_claims` become what all hold behind it."""
        wanting = [sequence.phase is Phase.DECODE for sequence in self.running]
        if self._room is None:
            return [sequence for sequence, wants in zip(self.running, wanting, strict=True) if wants]
        claims = [_claim(sequence) for sequence in self.running]
        allowed = may_grow(claims, wanting, self._room)
        advancing = []
        self._claims = {}
        for sequence, claim, may in zip(self.running, claims, allowed, strict=True):
            self._claims[sequence] = claim.grown() if may else claim
            if may:
                advancing.append(sequence)
        self._pausing = allowed != wanting
        return advancing

    def _drafts(self, decode: list[Sequence], beside: list[Chunk], cost: RowCost) -> list[Seq[int]]:
        """The tokens that are worth to be computed behind the newest of each; `_claims` count them, too."""
        nothing: list[Seq[int]] = [()] * len(decode)
        if beside or not self._speculative or self._pausing:
            return nothing
        drafts = [_draft(sequence) for sequence in decode]
        taken = worthwhile(drafts, cost)
        if self._room is not None and any(taken):
            grown = {
                sequence: self._claims[sequence].grown(more)
                for sequence, more in zip(decode, taken, strict=True)
            }
            claims = self._claims | grown
            if not is_safe(claims.values(), self._room):
                return nothing
            self._claims = claims
        return [draft.tokens[:more] for draft, more in zip(drafts, taken, strict=True)]

    def _next_chunk(self, budget: int, before: list[Chunk]) -> Chunk | None:
        """The next chunk, of `budget` tokens at most, behind those `before` it in the same step."""
        sequence = next((s for s in self.running if s.phase is Phase.PREFILL), None)
        assignment = None
        if sequence is None:
            sequence = self._next_waiting()
            if sequence is None or self._gains(sequence, before):
                return None
            self.waiting.remove(sequence)
            assignment = self._admit(sequence)
        start, whole = sequence.prefilled, len(sequence.prompt)
        end = min(start + budget, whole) if self._resumes else whole
        self._slots.prefilled(sequence.slot, sequence.prompt[start:end])
        sequence.prefilled = end
        if end == whole:
            sequence.phase = Phase.DECODE
        copies = assignment is not None and assignment.source != assignment.slot
        return Chunk(sequence, start, end, assignment if copies else None)

    def _coming(self) -> list[int]:
        """What is left of the prompts that could be computed now, in tokens."""
        begun = (sequence for sequence in self.running if sequence.phase is Phase.PREFILL)
        left = [len(sequence.prompt) - sequence.prefilled for sequence in begun]
        for sequence in islice(self.waiting, self._slots.free):
            cached = 0
            if self._reuses(sequence):
                _, cached = self._slots.longest_prefix(sequence.prompt, sequence.salt)
            left.append(len(sequence.prompt) - cached)
        return left

    def _next_waiting(self) -> Sequence | None:
        """Who may have a free slot now."""
        if not self.waiting or not self._slots.free:
            return None
        sequence = next((s for s in self.waiting if s.place.express), None)
        if sequence is None:
            usual = sum(not sequence.place.express for sequence in self.running)
            sequence = self.waiting[0] if usual < self._usual else None
        return sequence if sequence is not None and self._has_room(sequence) else None

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether `sequence` can be let in, and all that run can still come to their end."""
        if self._room is None:
            return True
        # Who pauses waits for what others give back: it is not for newcomers.
        return not self._pausing and is_safe([*self._claims.values(), _claim(sequence)], self._room)

    def _gains(self, sequence: Sequence, chunks: list[Chunk]) -> bool:
        """Whether `sequence` could start from what `chunks` compute, and so had better wait a step for it."""
        if not self._reuses(sequence):
            return False
        slot, cached = self._slots.longest_prefix(sequence.prompt, sequence.salt)
        return any(chunk.sequence.slot == slot.index and cached > chunk.start for chunk in chunks)

    def _reuses(self, sequence: Sequence) -> bool:
        """Whether a prefix may stand for computing it: scores of a prompt need its own logits."""
        return self._resumes and sequence.prompt_logprobs is None

    def _admit(self, sequence: Sequence) -> Assignment:
        assignment = self._slots.acquire(sequence.prompt, sequence.salt, reuse=self._reuses(sequence))
        sequence.slot = assignment.slot
        sequence.cached_tokens = sequence.prefilled = assignment.cached_tokens
        sequence.phase = Phase.PREFILL
        self.running.append(sequence)
        if self._room is not None:
            self._claims[sequence] = _claim(sequence)
        return assignment


def _draft(sequence: Sequence) -> Draft:
    """What may follow, but for the last token: that is never computed."""
    if sequence.adapter is not None and sequence.adapter.inexact_because is not None:
        return Draft((), ())  # its bits would tell whether a draft was right
    if sequence.drafter is None:
        sequence.drafter = Drafter(sequence.prompt)
    return sequence.drafter.draft(sequence.output, sequence.max_tokens - len(sequence.output) - 1)


def _decoded(sequence: Sequence) -> list[int]:
    """The generated tokens whose keys and values the slot holds: all but the last, which nobody computed."""
    return sequence.output[:-1] if sequence.phase is Phase.DECODE else []


def _claim(sequence: Sequence) -> Claim:
    """What `sequence` holds between two steps, its prompt counted whole. The last token is never written."""
    prompt = len(sequence.prompt)
    return Claim(prompt + max(len(sequence.output) - 1, 0), prompt + max(sequence.max_tokens - 1, 0))
