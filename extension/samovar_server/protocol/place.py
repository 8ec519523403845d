"""What the server tells its own engine beside a client's request, in a header that no client can send.

The server makes its requests to workers anew, and passes no header of its clients on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

PLACE_HEADER = "X-Samovar-Place"


@dataclass(frozen=True, slots=True)
class Place:
    """Which slots a request may have, and what it may find there.

    Under one `salt` requests share computed prefixes; it tells nothing of the user for whom it stands.
    `express` lets it into the slots that are kept for users with nothing running. `counted` asks for the
    token counts at the end of a stream, whether the client did or not.
    """

    salt: str = ""
    express: bool = False
    counted: bool = False

    def header(self) -> dict[str, str]:
        """As a header for a request to a worker."""
        return {PLACE_HEADER: json.dumps(asdict(self))}

    @classmethod
    def of_header(cls, value: str | None) -> Self:
        """What a worker reads in the header; without one it is asked by somebody else than the server."""
        return cls() if value is None else cls(**json.loads(value))
