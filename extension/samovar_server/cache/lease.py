"""A lease as the routes and the relay see it; what the cache does for it is in `entry` and `manager`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from samovar_server.cache.records import LoadedModel
from samovar_server.errors import SamovarError


@dataclass
class Lease(ABC):
    """The right to send one request to a model's worker: the model stays while the lease is held."""

    url: str
    secret: str = field(repr=False)
    model: LoadedModel

    @abstractmethod
    def failure(self) -> SamovarError:
        """After the connection to the worker broke: why, as the error to answer with.

        ModelUnloaded when the model was unloaded with mode=now, ModelCrashed else.
        """
