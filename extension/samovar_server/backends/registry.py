"""The backends there are, and which one loads a model when the caller leaves it to us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from samovar_server.backends.base import Backend, refuse_options
from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions
from samovar_server.loader.plan import LoadPlan

GIGABYTE = 10**9


class Backends:
    """Backends by name, in the order in which they are preferred for a model that several can load."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = {backend.name: backend for backend in backends}

    def __getitem__(self, name: str) -> Backend:
        return self._backends[name]

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends.values())

    def plan(self, model: ResolvedModel, options: LoadOptions, budgets: Mapping[str, int]) -> LoadPlan:
        """How to load `model`, with the reason why by this backend.

        Raises what Backend.check and Backend.plan raise, and InvalidRequest for options that do not go
        with the backend.
        """
        if options.backend != "auto":
            return self._with(
                self._named(options.backend, model), model, options, budgets, "it was asked for"
            )
        able, reason = self._choose(model, options)
        plan = self._with(able[0], model, options, budgets, reason)
        larger = next((other for other in able[1:] if other.name == "vllm"), None)
        budget = budgets.get(plan.device, 0)
        if larger is None or plan.memory.total_bytes <= budget or options.asked() - larger.options:
            return plan
        reason = (
            f"it takes about {_gigabytes(plan.memory.total_bytes)} with {able[0].title}, more than the "
            f"{_gigabytes(budget)} that models may take of {plan.device}, and {larger.title} is set up"
        )
        return self._with(larger, model, options, budgets, reason)

    def _choose(self, model: ResolvedModel, options: LoadOptions) -> tuple[list[Backend], str]:
        """Backends that can load `model`, the best first, and why it is the best."""
        fitting = [backend for backend in self if backend.takes(model)]
        able, lacking = [], []
        for backend in fitting:
            try:
                backend.check()
            except BackendUnavailable as error:
                lacking.append(error)
            else:
                able.append(backend)
        if not able:
            raise lacking[0]
        willing = [backend for backend in able if not options.asked() - backend.options]
        form = "a GGUF file" if model.is_gguf else "safetensors"
        if willing and willing[0] is not able[0]:
            names = ", ".join(sorted(options.asked() - able[0].options))
            return willing, f"{willing[0].title} is what takes {names}"
        best = (willing or able)[0]
        if best is not fitting[0]:
            return willing or able, f"{fitting[0].title}, which would load {form}, is not installed"
        return willing or able, f"{best.title} is what loads {form}"

    def _named(self, name: str, model: ResolvedModel) -> Backend:
        backend = self._backends.get(name)
        if backend is None or not backend.takes(model):
            able = ", ".join(["auto", *(other.name for other in self if other.takes(model))])
            raise InvalidRequest(
                f"backend: {name} does not load {model.name}. Choose one of: {able}.", param="backend"
            )
        return backend

    def _with(
        self,
        backend: Backend,
        model: ResolvedModel,
        options: LoadOptions,
        budgets: Mapping[str, int],
        reason: str,
    ) -> LoadPlan:
        refuse_options(backend, options)
        backend.check()
        return replace(backend.plan(model, options, budgets), reason=reason)


def _gigabytes(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB"
