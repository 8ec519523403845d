"""What a backend is: an engine, how its workers are started, and which load options it honours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.spec import WorkerSpec


class Backend(Protocol):
    """One engine. Nothing here imports the engine's libraries: only its worker processes do."""

    name: ClassVar[str]

    @property
    def command(self) -> Sequence[str]:
        """The command line of a worker process, which learns its model later, by its spec."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables to add to a worker's environment."""

    def check(self) -> None:
        """Raise BackendUnavailable, saying what to install, when workers could not run here."""

    def plan(self, model: ResolvedModel, options: LoadOptions, budgets: Mapping[str, int]) -> LoadPlan:
        """Make every `auto` definite and estimate the memory; `budgets` has the bytes of each device.

        Reads the model's files. Raises InvalidRequest for an option that this model, this machine or
        this backend cannot honour, LoadFailed for a damaged model.
        """

    def spec(self, plan: LoadPlan, secret: str) -> WorkerSpec:
        """What a worker is told to carry out `plan`."""
