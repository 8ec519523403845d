"""What the name of a GGUF file says: its quantisation, and which part of how many it is.

The names follow https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#gguf-naming-convention
"""

from __future__ import annotations

import re

_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf$", re.IGNORECASE)
_TAG = re.compile(
    r"(?:^|[-._/])(?P<tag>(?:UD-)?(?:I?Q[1-8](?:_[0-9A-Z]+)*|TQ[12]_0|MXFP4(?:_[A-Z]+)?|BF16|F16|F32))$",
    re.IGNORECASE,
)


def shard_of(path: str) -> tuple[str, int, int] | None:
    """(name without the numbers, number from 1, how many) of one part; None for a file that is whole."""
    found = _SHARD.match(path)
    return (found["stem"], int(found["number"]), int(found["total"])) if found else None


def tag_of(path: str) -> str | None:
    """The quantisation in the file's name, in capitals, such as Q4_K_M; None when it has none."""
    if not path.lower().endswith(".gguf"):
        return None
    shard = shard_of(path)
    found = _TAG.search(shard[0] if shard else path[: -len(".gguf")])
    return found["tag"].upper() if found else None
