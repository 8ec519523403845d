"""What is in memory, kept up to date by the server's events. The state of the manager; free of ipywidgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from samovar.progress import PHASES, share, size
from samovar.records import DeviceMemory, Event, LoadedModel, LoadProgress
from samovar.tables import leaves


@dataclass(frozen=True, slots=True)
class _Seen:
    """A model as it was told of, and when by this machine's clock; times to live count on from there."""

    model: LoadedModel
    at: float
    progress: LoadProgress | None = None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model as the manager shows it. `progress` is that of its load, from 0 to 1; None when loaded."""

    key: str
    name: str
    facts: str
    doing: str
    leaves: str
    progress: float | None
    pinned: bool
    state: str
    failure: str | None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """Memory of one device: the share of its budget that models take, and the same in words."""

    device: str
    fraction: float
    words: str


class MemoryState:
    """Models and devices. `reset` with what the server says, then `apply` each event; not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._devices: Sequence[DeviceMemory] = ()
        self.devices_changed = False
        """Whether something has happened since the devices were last told of."""

    def reset(self, models: Sequence[LoadedModel], devices: Sequence[DeviceMemory]) -> None:
        """Forget all else."""
        self._seen = {_key(model): _Seen(model, self._clock()) for model in models}
        self.set_devices(devices)

    def set_devices(self, devices: Sequence[DeviceMemory]) -> None:
        """Note how much memory there is."""
        self._devices = devices
        self.devices_changed = False

    def apply(self, event: Event) -> None:
        """Take in what happened; what is not about memory changes nothing."""
        if event.kind == "model":
            self._apply_model(event)
        elif event.kind == "queue" and event.data["cache_key"] in self._seen:
            seen = self._seen[event.data["cache_key"]]
            running, waiting = event.data["running"], event.data["waiting"]
            model = replace(seen.model, in_flight=running, queued=waiting)
            if not running and not waiting:  # from now on its time to live runs anew
                model = replace(model, ttl_remaining=model.ttl or None)
            self._seen[_key(model)] = replace(seen, model=model, at=self._clock())

    def _apply_model(self, event: Event) -> None:
        model = LoadedModel.from_json(event.data["model"])
        progress = event.data.get("progress")
        if event.data["change"] != "progress":
            self.devices_changed = True
        if model.state == "stopped":
            self._seen.pop(_key(model), None)
            return
        self._seen[_key(model)] = _Seen(
            model, self._clock(), LoadProgress.from_json(progress) if progress else None
        )

    def model(self, key: str) -> LoadedModel | None:
        """The model of a row, if it is still there."""
        return self._seen[key].model if key in self._seen else None

    def models(self) -> list[ModelRow]:
        """The models, in the order in which they came."""
        return [self._row(key, seen) for key, seen in self._seen.items()]

    def devices(self) -> list[DeviceRow]:
        """The devices, each with the share of its budget that is taken."""
        return [
            DeviceRow(
                device.device,
                device.used_bytes / device.budget_bytes if device.budget_bytes else 0.0,
                f"{device.device}: models take {share(device.used_bytes, device.budget_bytes)} that they may "
                f"have; {size(device.free_bytes)} free on the device",
            )
            for device in self._devices
        ]

    def _row(self, key: str, seen: _Seen) -> ModelRow:
        model = self._now(seen)
        kind = model.dtype if model.quantization == "none" else model.quantization
        facts = [model.device, kind, size(model.memory_bytes) if model.memory_bytes else ""]
        loading = seen.progress if model.state == "starting" else None
        return ModelRow(
            key=key,
            name=model.model,
            facts=" · ".join(fact for fact in facts if fact),
            doing=_doing(model, loading),
            leaves=_leaves(model),
            progress=loading.fraction if loading else 0.0 if model.state == "starting" else None,
            pinned=model.pinned,
            state=model.state,
            failure=model.error,
        )

    def _now(self, seen: _Seen) -> LoadedModel:
        if seen.model.ttl_remaining is None:
            return seen.model
        left = seen.model.ttl_remaining - (self._clock() - seen.at)
        return replace(seen.model, ttl_remaining=max(left, 0.0))


def _key(model: LoadedModel) -> str:
    return model.cache_key or model.model


def _doing(model: LoadedModel, loading: LoadProgress | None) -> str:
    if loading is not None:
        words = [PHASES.get(loading.phase, loading.phase), f"{loading.fraction:.0%}"]
        if loading.phase == "weights":
            words.append(share(loading.bytes_done, loading.bytes_total))
        return f"loading: {', '.join(word for word in words if word)}"
    if model.state == "ready":
        return f"ready, {model.in_flight} running, {model.queued} waiting"
    return {"starting": "loading", "draining": "ending its requests"}.get(model.state, model.state)


def _leaves(model: LoadedModel) -> str:
    when = leaves(model)
    return f"leaves memory {when}" if when.startswith(("in ", "never")) else when
