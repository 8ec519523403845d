"""Speculative decoding: tokens that may come next, checked in one step, for the same text in fewer steps.

A sequence's last tokens have often stood in it before: in a prompt that is quoted, in code, in a list, in
what a small model says again. What followed them then is the draft of what follows now. The step that
computes the newest token computes the draft behind it as well, in rows that cost little where a step waits
for the weights. By the logits of each row the next token is chosen as always, by the same rules and the
same draws. As long as it is the draft's, the row behind it has been computed for the right text, and with
the bits that it would have had. The first that is not ends the draft, and what was computed behind it is
written over.

Prompt lookup is Saxena's (Prompt Lookup Decoding, 2023), to check many tokens in a step is Leviathan,
Kalman and Matias' (Fast Inference from Transformers via Speculative Decoding, 2023). Here, how many are
checked follows from how often drafts like these were right, and from what a row costs beside so many
others.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from samovar_server.engine.row_cost import RowCost

LONGEST_MATCH = 6
"""A match of so many tokens counts as one of any greater length."""
MOST = 7
"""Tokens of a sequence's draft, at most."""
LOOK_BACK = 64
"""Places that are looked at for a match, the latest ones: a frequent token has stood at many."""

EXPECTED = (0.15, 0.35, 0.55, 0.7, 0.8, 0.9)
"""How often the token behind a match of 1, 2, ... tokens is right, before a sequence has shown it: about what
SmolLM2-135M does without sampling, on questions, text to work on and meaningless words."""
WEIGHT = 10.0
"""How many tokens that expectation stands for."""
MEMORY = 0.95
"""The weight of a token against that of the next one of its kind."""


class Draft(NamedTuple):
    """Tokens that may follow, and how likely each is to be right together with those before it."""

    tokens: Sequence[int]
    odds: Sequence[float]


class Drafter:
    """One sequence's drafts, and how right they were."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt = len(prompt)
        self._tokens: list[int] = []
        self._ends: defaultdict[int, list[int]] = defaultdict(list)
        self._tried = [WEIGHT] * LONGEST_MATCH
        self._right = [WEIGHT * share for share in EXPECTED]
        self._match = 0
        self._add(prompt)

    def draft(self, output: Sequence[int], most: int) -> Draft:
        """What may follow the prompt and `output`, at most so many tokens."""
        self._add(output[len(self._tokens) - self._prompt :])
        self._match, end = self._longest_match()
        tokens = self._tokens[end : end + min(most, MOST)] if self._match else []
        odds: list[float] = []
        so_far = 1.0
        for kind in map(self._kind, range(len(tokens))):
            so_far *= self._right[kind] / self._tried[kind]
            odds.append(so_far)
        return Draft(tokens, odds)

    def learn(self, tried: int, accepted: int) -> None:
        """Of the last draft `tried` tokens were computed, and the first so many of them were right."""
        for place in range(min(accepted + 1, tried)):
            kind = self._kind(place)
            self._tried[kind] = self._tried[kind] * MEMORY + 1
            self._right[kind] = self._right[kind] * MEMORY + (place < accepted)

    def _kind(self, place: int) -> int:
        """What match the draft's token at `place` stands behind, if those before it are right."""
        return min(self._match + place, LONGEST_MATCH) - 1

    def _add(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._tokens.append(token)
            self._ends[token].append(len(self._tokens))

    def _longest_match(self) -> tuple[int, int]:
        """How many of the last tokens have stood in a row before, and where the last such place ended."""
        tokens = self._tokens
        length, end = 0, 0
        for place in reversed(self._ends[tokens[-1]][-LOOK_BACK - 1 : -1]):
            same = 1
            while same < min(LONGEST_MATCH, place) and tokens[place - same - 1] == tokens[-same - 1]:
                same += 1
            if same > length:
                length, end = same, place
            if length == LONGEST_MATCH:
                break
        return length, end


def worthwhile(drafts: Sequence[Draft], cost: RowCost) -> list[int]:
    """How many tokens of each sequence's draft the next step had better compute.

    A row is worth its time if the token that it may give comes quicker than the step's others: if its odds by
    its seconds are more than the step's tokens by the step's. The likeliest are asked first, as each that is
    taken leaves less to the rest.
    """
    taken = [0] * len(drafts)
    heap = [(-draft.odds[0], index) for index, draft in enumerate(drafts) if draft.odds]
    heapq.heapify(heap)
    tokens, seconds = float(len(drafts)), cost.step(len(drafts))
    while heap:
        odds, index = -heap[0][0], heap[0][1]
        if odds * seconds <= tokens * cost.row:
            break
        tokens, seconds = tokens + odds, seconds + cost.row
        taken[index] += 1
        left = drafts[index].odds[taken[index] :]
        if left:
            heapq.heapreplace(heap, (-left[0], index))
        else:
            heapq.heappop(heap)
    return taken
