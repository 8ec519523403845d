"""Which adapter a request means, as the server tells its own engine: in a header that no client can send."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

ADAPTER_HEADER = "X-Samovar-Adapter"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter on disk: what messages call it, and its folder, which the server has checked."""

    name: str
    path: str

    def header(self) -> dict[str, str]:
        """As a header for a request to a worker."""
        return {ADAPTER_HEADER: json.dumps(asdict(self))}

    @classmethod
    def of_header(cls, value: str | None) -> Self | None:
        """What a worker reads in the header; None: the request is for the model as it is."""
        return None if value is None else cls(**json.loads(value))
