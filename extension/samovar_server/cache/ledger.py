"""The account of memory: what the cache's models take of each device, and what a load would need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from samovar_server.cache.clock import Clock
from samovar_server.cache.entry import Entry
from samovar_server.cache.policy import Decision, Holding, decide
from samovar_server.cache.records import DeviceMemory, LoadEstimate
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
        InsufficientMemory, which says what is needed, what is free, what could go and what would fit.
        """
        room = self._room(plan, entry)
        if room.decision.action == "refuse":
            raise self._refusal(plan, room)
        return room.decision

    def estimate(self, plan: LoadPlan, source: Literal["disk", "hub"]) -> LoadEstimate:
        """What a load by `plan` would take and do, if it were to begin now."""
        room, memory = self._room(plan, None), plan.memory
        fits = room.decision.action != "refuse"
        return LoadEstimate(
            model=plan.model.name,
            backend=plan.backend,
            device=plan.device,
            dtype=plan.dtype,
            quantization=plan.quantization,
            source=source,
            weights_bytes=memory.weights_bytes,
            kv_bytes_per_token=memory.kv_bytes_per_token,
            kv_tokens=memory.kv_tokens,
            context_length=memory.context_length,
            slots=memory.slots,
            overhead_bytes=memory.overhead_bytes,
            total_bytes=memory.total_bytes,
            free_bytes=room.free_bytes,
            budget_bytes=room.budget,
            fits=fits,
            would_evict=[self._entries[key].plan.cache_key for key in room.decision.evict],
            longest_context=None if fits else memory.context_within(room.reachable_bytes),
        )

    def excess(self, device: str) -> Decision:
        """What has to go where the models in memory take more than the budget."""
        claims = [claim for claim in self.holdings(device) if claim.phase != "waiting"]
        return decide(0, claims, self._budget(device), self._clock.now())

    def _budget(self, device: str) -> int:
        return self._devices.budgets(self.used_bytes())[device]

    def _room(self, plan: LoadPlan, entry: Entry | None) -> _Room:
        claims = [claim for claim in self.holdings(plan.device) if claim.key != plan.identity]
        if entry is not None:  # room that was promised later is no obstacle
            claims = [
                claim
                for claim in claims
                if claim.phase != "waiting" or self._entries[claim.key].number < entry.number
            ]
        budget = self._budget(plan.device)
        return _Room(claims, budget, decide(plan.memory.total_bytes, claims, budget, self._clock.now()))

    def _refusal(self, plan: LoadPlan, room: _Room) -> InsufficientMemory:
        idle = [
            f"{self._entries[claim.key].plan.model.name} ({gigabytes(claim.memory_bytes)})"
            for claim in room.claims
            if claim.may_go
        ]
        context = plan.memory.context_within(room.reachable_bytes)
        if context is not None:
            ways = [f"ask for a context_length of {context} or less, which would fit"]
        else:
            ways = ["choose a smaller model, or quantization int8 or int4"]
        if len(room.claims) > len(idle):
            ways.append("unload a model that is busy or pinned")
        setting = "cpu_memory_budget" if plan.device == "cpu" else "gpu_memory_budgets"
        ways.append(f"raise c.Workbench.{setting}")
        ways.append("set memory_bytes in the request if you know that it takes less")
        return InsufficientMemory(
            f"{plan.model.name} needs about {gigabytes(plan.memory.total_bytes)} of {plan.device} memory; "
            f"{gigabytes(room.free_bytes)} of the budget of {gigabytes(room.budget)} is free. Idle models "
            f"that could go: {', '.join(idle) or 'none'}; "
            f"{gigabytes(room.decision.missing_bytes)} would still be missing. "
            f"What helps: {', or '.join(ways)}."
        )


@dataclass(frozen=True, slots=True)
class _Room:
    """What others claim of a device, and what follows for a load that wants room there."""

    claims: list[Holding]
    budget: int
    decision: Decision

    @property
    def free_bytes(self) -> int:
        """Of the budget, what nobody claims."""
        return max(self.budget - sum(claim.memory_bytes for claim in self.claims), 0)

    @property
    def reachable_bytes(self) -> int:
        """What would be free if every model went that may go or is going."""
        staying = sum(c.memory_bytes for c in self.claims if not c.may_go and c.phase != "leaving")
        return max(self.budget - staying, 0)


def gigabytes(size: int) -> str:
    """`size` bytes, for people to read."""
    return f"{size / GIGABYTE:.1f} GB"
