"""`POST /v1/embeddings`: the request, checked, and the answer.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from samovar_server.protocol.completions import Prompts, as_list_of_prompts
from samovar_server.protocol.fields import LoadFields


class EmbeddingRequest(LoadFields):
    """One vector per input. `dimensions` keeps the first so many components, normalised again."""

    input: Annotated[Prompts, as_list_of_prompts]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None

    @property
    def sequences(self) -> int:
        """See LoadFields. An embedding model computes one input after the other."""
        return 1


def embedding_answer(
    model: str, vectors: Sequence[Sequence[float]], tokens: int, encoding: str
) -> dict[str, Any]:
    """The answer: vectors as lists, or as base64 of little-endian float32."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(vector: Sequence[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return list(vector)
    return base64.b64encode(array("f", vector).tobytes()).decode()
