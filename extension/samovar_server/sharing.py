"""How the people who call a server share it: whose turn it is, how much each may have, what is counted."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from traitlets import Bool, Bunch, Dict, Float, Int, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from samovar_server.cache.lease import Lease
from samovar_server.callers import Caller
from samovar_server.fairness.policy import Capacity, Costs, Request
from samovar_server.fairness.turns import Turns
from samovar_server.loader.options import LoadProgress, ProgressCallback
from samovar_server.metrics import count_usage
from samovar_server.protocol.place import Place
from samovar_server.quotas.gate import Gate
from samovar_server.quotas.rules import Rules
from samovar_server.usage.ledger import UsageLedger
from samovar_server.usage.meter import Meter
from samovar_server.usage.records import Tokens

AHEAD_SHARE = 4
"""One request in so many slots is let in ahead, so that no slot is empty while the next one comes over."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for: the model (None: the default one), how many sequences (0: what takes no
    slot), and about how many tokens its prompt has."""

    model: str | None
    sequences: int
    prompt_tokens: int


class Sharing(LoggingConfigurable):
    """How people share a server. On a server of one person's own, all of this has no effect."""

    reserved_slots = Int(
        None,
        allow_none=True,
        min=0,
        help="""
        Requests that a model answers beside those of Workbench.slots: for users who have none running, so
        that they do not wait until another's long answers end. Default: 4 in a Hub's service, else none.
        """,
    ).tag(config=True)

    upstream_slots = Int(
        240,
        min=1,
        help="""
        Requests that vLLM or another server is given at the same time; further ones wait here for their
        turn. With the reserve it should be a little less than what that server takes.
        """,
    ).tag(config=True)

    prompt_cost = Float(
        1.0, min=0.0, help="What a token of a prompt counts when it is judged whose turn it is."
    ).tag(config=True)

    output_cost = Float(2.0, min=0.0, help="What a generated token counts.").tag(config=True)

    group_weights = Dict(
        value_trait=Float(min=0.001),
        key_trait=Unicode(),
        help="""
        Shares of groups: {"staff": 4} lets a member have four times the work of others before it is their
        turn. Who is in several groups has the largest weight of them.
        """,
    ).tag(config=True)

    share_prefixes = Bool(
        None,
        allow_none=True,
        help="""
        Whether what was computed for one user's prompt is reused for another's that begins alike. That is
        faster, and lets a user tell by the time whether somebody has sent a text. Default: not in a Hub's
        service.
        """,
    ).tag(config=True)

    limits = Dict(
        value_trait=Dict(),
        key_trait=Unicode(),
        help="""
        How much people may have: {"*": {"requests": 4, "tokens_per_day": 200000, "models": ["demo"]},
        "group:staff": {"tokens_per_day": None, "models": None}, "user:ada": {...}}. `requests` at the same
        time; `tokens_per_day` of prompts and answers, within the last 24 hours; `models` by name, with *
        for any text. What is said of a user counts more than what is said of groups, and that more than "*".
        """,
    ).tag(config=True)

    roles = Dict(
        value_trait=List(Unicode()),
        key_trait=Unicode(),
        help="""
        Who may do what, beside the admins, who may do everything: {"download": ["group:staff", "user:ada"]}.
        Actions: generate and load, which all may by default; pin (and set a ttl), unload, download, delete.
        "*" is everybody. A model that is in memory needs no right to load.
        """,
    ).tag(config=True)

    contact = Unicode(
        "whoever runs this server", help="Whom refusals tell people to ask: a name, an address, a channel."
    ).tag(config=True)

    metrics_by_user = Bool(
        False, help="Show in the metrics how many tokens each user has used, by name."
    ).tag(config=True)

    shared = Bool(False, help="Whether many people use this server. Not a setting.")

    max_queue = Int(0, help="That of the workbench. Not a setting.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._turns = Turns(Costs(self.prompt_cost, self.output_cost), self.max_queue, time.monotonic)
        self._secret = secrets.token_bytes(32)
        self.usage = UsageLedger(lambda: Path(jupyter_data_dir()) / "samovar" / "usage.sqlite", self.log)
        """What each user has used."""
        rules = Rules.read(self.limits, self.roles)
        self.gate = Gate(rules, self.contact, self.usage.by_hour)
        """What each user may do."""

    @validate("limits", "roles")
    def _check_rules(self, proposal: Bunch) -> dict[str, Any]:
        setting: dict[str, Any] = proposal.value
        try:
            Rules.read(**{"limits": {}, "roles": {}, proposal.trait.name: setting})
        except ValueError as error:
            raise TraitError(str(error)) from None
        return setting

    @property
    def reserve(self) -> int:
        """Slots kept for users with nothing running."""
        if self.reserved_slots is not None:
            return self.reserved_slots
        return 4 if self.shared else 0

    @asynccontextmanager
    async def counted(self, caller: Caller, demand: Demand) -> AsyncIterator[None]:
        """Count a request among the caller's, from its arrival on. PermissionDenied, QuotaExceeded."""
        self.gate.require(caller, "generate", "send requests to models")
        with self.gate.request(caller) if demand.sequences else nullcontext():
            yield

    @asynccontextmanager
    async def turn(
        self, caller: Caller, demand: Demand, lease: Lease, on_progress: ProgressCallback | None
    ) -> AsyncIterator[Meter]:
        """Wait for the caller's turn at the leased model and hold it. Raises QueueFull.

        The lease then says to the worker what the caller may have. The meter is to be shown the answer.
        """
        request = Request(
            caller.name, demand.prompt_tokens, max(demand.sequences, 1), weight=self._weight(caller)
        )
        if not demand.sequences:
            self._tell_worker(caller, lease, request)
            yield Meter(0, lambda tokens: None)
            return
        capacity = self._capacity(lease)
        waiting = partial(_waiting, lease, on_progress)
        async with self._turns.turn(lease.model.cache_key, capacity, request, waiting) as turn:
            self._tell_worker(caller, lease, request)

            name = lease.model.model
            with self.usage.request(caller.name, name, demand.prompt_tokens) as count:

                def tell(tokens: Tokens) -> None:
                    turn.charge(prompt=tokens.prompt, output=tokens.output)
                    count(tokens)

                meter = Meter(demand.prompt_tokens, tell)
                try:
                    yield meter
                finally:
                    meter.settle()
                    user = caller.name if self.metrics_by_user else ""
                    count_usage(name, user, meter.tokens.prompt, meter.tokens.output)

    def waiting(self, model: str) -> int:
        """Sequences that wait for their turn at `model`, a cache key."""
        return self._turns.waiting(model)

    def _weight(self, caller: Caller) -> float:
        weights = [self.group_weights[group] for group in caller.groups if group in self.group_weights]
        return max(weights, default=1.0)

    def _capacity(self, lease: Lease) -> Capacity:
        if lease.slots is None:
            return Capacity(self.upstream_slots, self.reserve)
        if lease.dialect is not None:  # it would let those ahead into the reserve, too
            return Capacity(lease.slots, lease.reserve)
        return Capacity(lease.slots, lease.reserve, min(-(-lease.slots // AHEAD_SHARE), self.max_queue))

    def _tell_worker(self, caller: Caller, lease: Lease, request: Request) -> None:
        salt = "" if self._shares_prefixes else self._salt(caller)
        if lease.dialect is None:
            lease.headers |= Place(salt, request.express, counted=True).header()
        elif salt:
            lease.dialect = lease.dialect.isolated(salt)

    @property
    def _shares_prefixes(self) -> bool:
        return not self.shared if self.share_prefixes is None else self.share_prefixes

    def _salt(self, caller: Caller) -> str:
        """Stands for the caller and tells nothing of him, nor anything that another could send."""
        return hmac.digest(self._secret, caller.name.encode(), "sha256").hex()[:32]


@contextmanager
def _waiting(lease: Lease, on_progress: ProgressCallback | None) -> Iterator[None]:
    """What holds as long as a request waits for its turn."""
    if on_progress is not None:
        on_progress(LoadProgress("queued", 0.0))
    with lease.queued():
        yield
