"""The bodies of `POST /v1/models/download` and `verify-repo`, and the query of `search`, checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Glob = Annotated[str, Field(min_length=1, max_length=512)]
Globs = Annotated[tuple[Glob, ...], Field(max_length=64, strict=False)]


NO_XET = (
    "samovar does not fetch by Xet, whose transfers begin anew when they are cut off. Leave it out, or fetch "
    "with `hf download` in a terminal: samovar finds what that brings"
)


class VerifyRequest(BaseModel):
    """`url`: a repo of the Hub (`org/name`), its page's address, or an alias; `quantization`: a GGUF tag.

    `xet` is refused unless it is false: see NO_XET.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, Field(min_length=1, max_length=1024)]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,254}$")] | None = None
    include: Globs = ()
    exclude: Globs = ()
    quantization: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")] | None = None
    destination: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    xet: bool = False

    @field_validator("xet")
    @classmethod
    def _is_not_xet(cls, wanted: bool) -> bool:
        if wanted:
            raise ValueError(NO_XET)
        return wanted

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


class DownloadRequest(VerifyRequest):
    """`destination`: the model folder to put it into; without one, the Hugging Face cache."""


class SearchQuery(BaseModel):
    """`q` is a part of a model's name."""

    model_config = ConfigDict(extra="forbid")

    q: Annotated[str, Field(min_length=1, max_length=256)]
    limit: Annotated[int, Field(ge=1, le=100)] = 20
