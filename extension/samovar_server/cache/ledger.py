"""The account of memory: what the cache's models take of each device, and what a load would need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from samovar_server.cache.clock import Clock
from samovar_server.cache.entry import Entry
from samovar_server.cache.policy import Decision, Holding, decide
from samovar_server.cache.records import DeviceMemory
from samovar_server.errors import InsufficientMemory
from samovar_server.loader.devices import Memory
from samovar_server.loader.plan import LoadPlan

GIGABYTE = 10**9


class Devices(Protocol):
    """Where models can be, as the cache sees it."""

    def memory(self) -> Mapping[str, Memory]:
        """Memory by device."""

    def budgets(self, used: Mapping[str, int]) -> Mapping[str, int]:
        """Bytes that models may take of each device, `used` being what they take already."""


class Ledger:
    """Reads `entries`, which the cache changes; changes nothing itself."""

    def __init__(self, entries: Mapping[str, Entry], devices: Devices, clock: Clock) -> None:
        self._entries = entries
        self._devices = devices
        self._clock = clock

    def holdings(self, device: str | None = None) -> list[Holding]:
        """The claims on `device`, or on all."""
        return [
            holding
            for entry in self._entries.values()
            if device in (None, entry.plan.device) and (holding := entry.holding()) is not None
        ]

    def used_bytes(self) -> dict[str, int]:
        """Memory taken by models, by device."""
        used: dict[str, int] = {}
        for entry in self._entries.values():
            holding = entry.holding()
            if holding is not None and holding.phase != "waiting":
                used[entry.plan.device] = used.get(entry.plan.device, 0) + holding.memory_bytes
        return used

    def device_memory(self) -> list[DeviceMemory]:
        """Every device with its memory, its budget and what models take of it."""
        used, memory = self.used_bytes(), self._devices.memory()
        budgets = self._devices.budgets(used)
        return [
            DeviceMemory(device, size.total_bytes, size.free_bytes, budgets[device], used.get(device, 0))
            for device, size in memory.items()
        ]

    def room_for(self, plan: LoadPlan, entry: Entry | None = None) -> Decision:
        """What a load by `plan` has to do to get its room.

        `entry` is the load's own, or None for a load that would replace the resident copy. Raises
        InsufficientMemory, which says what is needed, what is free and what could go.
        """
        claims = [claim for claim in self.holdings(plan.device) if claim.key != plan.identity]
        if entry is not None:  # room that was promised later is no obstacle
            claims = [
                claim
                for claim in claims
                if claim.phase != "waiting" or self._entries[claim.key].number < entry.number
            ]
        budget = self._budget(plan.device)
        decision = decide(plan.memory.total_bytes, claims, budget, self._clock.now())
        if decision.action == "refuse":
            raise self._refusal(plan, claims, budget, decision.missing_bytes)
        return decision

    def excess(self, device: str) -> Decision:
        """What has to go where the models in memory take more than the budget."""
        claims = [claim for claim in self.holdings(device) if claim.phase != "waiting"]
        return decide(0, claims, self._budget(device), self._clock.now())

    def _budget(self, device: str) -> int:
        return self._devices.budgets(self.used_bytes())[device]

    def _refusal(
        self, plan: LoadPlan, claims: list[Holding], budget: int, missing_bytes: int
    ) -> InsufficientMemory:
        free = max(budget - sum(claim.memory_bytes for claim in claims), 0)
        idle = [
            f"{self._entries[claim.key].plan.model.name} ({gigabytes(claim.memory_bytes)})"
            for claim in claims
            if claim.may_go
        ]
        ways = ["ask for a shorter context_length or a smaller dtype"]
        if len(claims) > len(idle):
            ways.append("unload a model that is busy or pinned")
        if plan.device == "cpu":
            ways.append("raise c.Workbench.cpu_memory_budget")
        return InsufficientMemory(
            f"{plan.model.name} needs about {gigabytes(plan.memory.total_bytes)} of {plan.device} memory; "
            f"{gigabytes(free)} of the budget of {gigabytes(budget)} is free. Idle models that could go: "
            f"{', '.join(idle) or 'none'}; {gigabytes(missing_bytes)} would still be missing. "
            f"What helps: {', or '.join(ways)}."
        )


def gigabytes(size: int) -> str:
    """`size` bytes, for people to read."""
    return f"{size / GIGABYTE:.1f} GB"
