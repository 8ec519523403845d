"""Which of a step's new tokens are attended with at once.

One call of attention reads the keys and values of all slots from the first to the last, those between that
decode nothing too, as far as the longest reaches. Another call costs time of its own. So tokens are taken
together as long as what is read in vain costs less than a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from samovar_server.engine.grid import decode_length
from samovar_server.engine.step import NewToken


def rounds(tokens: Sequence[NewToken], call: float) -> Iterator[slice]:
    """Cut `tokens` so that no slot is twice in a round; a call costs as much as `call` positions of a slot.

    Bits do not depend on it, so it may go by the first choice that is good.
    """
    begin, cost, span, longest = 0, 0.0, range(0), 0
    for index, token in enumerate(tokens):
        slot, length = token.slot, decode_length(token.position + 1)
        if index > begin:
            wider = range(min(span.start, slot), max(span.stop, slot + 1))
            together = len(wider) * max(longest, length)
            if token.ahead == tokens[begin].ahead and together <= cost + call + length:
                cost, span, longest = together, wider, max(longest, length)
                continue
            yield slice(begin, index)
        begin, cost, span, longest = index, length, range(slot, slot + 1), length
    if tokens:
        yield slice(begin, len(tokens))
