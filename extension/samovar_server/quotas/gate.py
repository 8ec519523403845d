"""Refuses what the rules do not allow, and says why, until when, and whom to ask."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from samovar_server.callers import Caller
from samovar_server.errors import PermissionDenied, QuotaExceeded
from samovar_server.quotas.rules import Action, Limits, Rules
from samovar_server.quotas.window import seconds_until_free

BUSY_RETRY_SECONDS = 5
"""When one of a user's own requests will end, nobody knows but he."""


class Gate:
    """Keeps to `rules`; `tokens_of` tells the tokens of a user by hour, `now` the time in Unix seconds.

    `contact` is whom to ask, as the refusals say it.
    """

    def __init__(
        self,
        rules: Rules,
        contact: str,
        tokens_of: Callable[[str], Mapping[int, int]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._contact = contact
        self._tokens_of = tokens_of
        self._now = now
        self._in_flight: Counter[str] = Counter()

    def require(self, caller: Caller, action: Action, what: str) -> None:
        """PermissionDenied unless the caller may do `action`; `what` completes "You may not ..."."""
        if not self._rules.may(caller, action):
            raise PermissionDenied(f"You may not {what} on this server. {self._ask()}")

    def limits(self, caller: Caller) -> Limits:
        """How much the caller may have."""
        return self._rules.limits_of(caller)

    def require_model(self, caller: Caller, names: Collection[str]) -> None:
        """PermissionDenied unless the caller may use the model that has these names."""
        limits = self._rules.limits_of(caller)
        if not limits.allows(names):
            allowed = ", ".join(limits.models or []) or "none"
            raise PermissionDenied(
                f"You may not use this model on this server; models for you: {allowed}. {self._ask()}",
                param="model",
            )

    @contextmanager
    def request(self, caller: Caller) -> Iterator[None]:
        """One request of the caller's, as long as this is entered. QuotaExceeded when it is one too many."""
        limits = self._rules.limits_of(caller)
        if limits.requests is not None and self._in_flight[caller.name] >= limits.requests:
            raise QuotaExceeded(
                f"You have {self._in_flight[caller.name]} requests under way, and {limits.requests} at the "
                f"same time are allowed. Send the next when one of them is done. {self._ask('for more')}",
                retry_after=BUSY_RETRY_SECONDS,
            )
        if limits.tokens_per_day is not None:
            self._require_tokens(caller, limits.tokens_per_day)
        self._in_flight[caller.name] += 1
        try:
            yield
        finally:
            self._in_flight[caller.name] -= 1
            if not self._in_flight[caller.name]:
                del self._in_flight[caller.name]

    def _require_tokens(self, caller: Caller, limit: int) -> None:
        tokens = self._tokens_of(caller.name)
        seconds = seconds_until_free(tokens, limit, self._now())
        if seconds is None:
            return
        wait = max(1, math.ceil(seconds))
        raise QuotaExceeded(
            f"You have used {sum(tokens.values()):,} tokens within a day, and {limit:,} are allowed. "
            f"There is room again in {_duration(wait)}. {self._ask('for more')}",
            retry_after=wait,
        )

    def _ask(self, why: str = "") -> str:
        return f"Ask {self._contact}{f' {why}' if why else ''}."


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{max(1, rest // 60)} min"
