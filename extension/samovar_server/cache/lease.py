"""A lease as the routes and the relay see it; what the cache does for it is in `entry` and `manager`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from samovar_server.cache.records import LoadedModel
from samovar_server.errors import SamovarError
from samovar_server.loader.dialect import Dialect


@dataclass
class Lease(ABC):
    """The right to send one request to a model's worker: the model stays while the lease is held.

    `dialect` is how to speak to it, if it is not samovar's own engine. `timeout` is how many seconds it may
    be silent within an answer; None: for ever, as it is a worker on this machine, which is watched.
    """

    url: str
    secret: str = field(repr=False)
    model: LoadedModel
    evicted: tuple[str, ...] = field(default=(), kw_only=True)
    """Cache keys of the models that had to go for this request; none when it found its model there."""
    dialect: Dialect | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    slots: int | None = field(default=None, kw_only=True)
    """Sequences that the worker computes together; None: nobody knows."""
    reserve: int = field(default=0, kw_only=True)
    """Further ones, for users with nothing running."""
    headers: dict[str, str] = field(default_factory=dict, kw_only=True)
    """What to tell the worker beside the request."""

    def endpoint(self, path: str) -> str:
        """The URL of the route `path`, which begins with /v1."""
        return self.url + path

    def queued(self) -> AbstractContextManager[None]:
        """As long as this is entered, the request is counted as one that waits."""
        return nullcontext()

    @abstractmethod
    def failure(self) -> SamovarError:
        """After the connection to the worker broke: why, as the error to answer with.

        ModelUnloaded when the model was unloaded with mode=now, ModelCrashed else.
        """

    def silence(self) -> SamovarError:
        """After `timeout`: the error to answer with."""
        return self.failure()
