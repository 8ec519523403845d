"""The devices models can be loaded on, and how much of each device's memory they may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from samovar_server.loader.devices import Memory, NvidiaGpus, host_memory

TOTAL_SHARE: Mapping[str, float] = {"cpu": 0.8, "cuda": 0.9}
"""Most of a device's memory that models take when no budget is set."""

FREE_SHARE = 0.9
"""Most of what is free now that an automatic budget counts on: other programs grow too."""


class Machine:
    """The host and its GPUs.

    `limits` are budgets in bytes, by device: "cpu", "cuda:0", …, or "cuda" for every GPU that is not
    named. A device without one, or with 0, has an automatic budget.
    """

    def __init__(
        self, gpus: NvidiaGpus, limits: Mapping[str, int], host: Callable[[], Memory] = host_memory
    ) -> None:
        self._gpus = gpus
        self._limits = limits
        self._host = host

    def memory(self) -> dict[str, Memory]:
        """Memory by device: "cpu", then "cuda:0", …"""
        gpus = {f"cuda:{index}": memory for index, memory in enumerate(self._gpus.memory())}
        return {"cpu": self._host(), **gpus}

    def budgets(self, used: Mapping[str, int]) -> dict[str, int]:
        """Bytes that models may take of each device, `used` being what they take already."""
        return {
            device: self._limit(device) or automatic_budget(device, memory, used.get(device, 0))
            for device, memory in self.memory().items()
        }

    def _limit(self, device: str) -> int:
        return self._limits.get(device, self._limits.get(device.partition(":")[0], 0))


def automatic_budget(device: str, memory: Memory, used: int) -> int:
    """A share of the device, and no more than what other programs leave."""
    share = TOTAL_SHARE[device.partition(":")[0]]
    return min(int(memory.total_bytes * share), used + int(memory.free_bytes * FREE_SHARE))
