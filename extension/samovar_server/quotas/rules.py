"""What the settings allow to whom: pure functions of a caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from samovar_server.callers import Caller

Action = Literal["generate", "load", "pin", "unload", "download", "delete"]

EVERYBODY, ADMINS = "*", "admins"
DEFAULT_ROLES: dict[str, list[str]] = {
    "generate": [EVERYBODY],
    "load": [EVERYBODY],
    "pin": [ADMINS],
    "unload": [ADMINS],
    "download": [ADMINS],
    "delete": [ADMINS],
}


class Limits(BaseModel):
    """How much one user may have; None: as much as there is.

    `requests` at the same time, `tokens_per_day` of prompts and answers together, and `models` by their
    names, in which * stands for any text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests: Annotated[int, Field(ge=1)] | None = None
    tokens_per_day: Annotated[int, Field(ge=0)] | None = None
    models: list[str] | None = None

    def allows(self, names: Iterable[str]) -> bool:
        """Whether the model that has these names may be used."""
        return self.models is None or any(
            fnmatchcase(name, pattern) for name in names for pattern in self.models
        )


Somebody = Annotated[str, Field(pattern=r"^(\*|admins|(user|group):.+)$")]
_LIMITS: TypeAdapter[dict[Somebody, Limits]] = TypeAdapter(dict[Somebody, Limits])
_ROLES: TypeAdapter[dict[Action, list[Somebody]]] = TypeAdapter(dict[Action, list[Somebody]])


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings `limits` and `roles`, read. ValueError says what is wrong with them."""

    limits: Mapping[str, Limits]
    roles: Mapping[Action, list[str]]

    @classmethod
    def read(cls, limits: Mapping[str, Any], roles: Mapping[str, Any]) -> Rules:
        """From the settings; actions that `roles` does not name keep their defaults."""
        return cls(_checked(_LIMITS, "limits", limits), _checked(_ROLES, "roles", {**DEFAULT_ROLES, **roles}))

    def may(self, caller: Caller, action: Action) -> bool:
        """Whether `caller` may do `action`; admins may do all."""
        return caller.admin or bool(names_of(caller) & set(self.roles[action]))

    def limits_of(self, caller: Caller) -> Limits:
        """What holds for `caller`: each limit from what is said of him, else of his groups, else of all.

        Of several groups the most generous counts.
        """
        own = self.limits.get(f"user:{caller.name}", Limits())
        groups = [self.limits[name] for name in _groups(caller) if name in self.limits]
        everybody = self.limits.get(EVERYBODY, Limits())

        def nearest(field: str, most: Callable[[list[Any]], Any]) -> Any:
            if field in own.model_fields_set:
                return getattr(own, field)
            said = [getattr(limits, field) for limits in groups if field in limits.model_fields_set]
            if said:
                return None if None in said else most(said)
            return getattr(everybody, field)

        return Limits(
            requests=nearest("requests", max),
            tokens_per_day=nearest("tokens_per_day", max),
            models=nearest("models", lambda lists: sorted({name for names in lists for name in names})),
        )


def names_of(caller: Caller) -> set[str]:
    """All ways in which a setting may speak of `caller`."""
    return {EVERYBODY, f"user:{caller.name}", *_groups(caller), *([ADMINS] if caller.admin else [])}


def _groups(caller: Caller) -> set[str]:
    return {f"group:{group}" for group in caller.groups}


def _checked(adapter: TypeAdapter[Any], name: str, setting: Mapping[str, Any]) -> Any:
    try:
        return adapter.validate_python(dict(setting))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        known = f"; actions are {', '.join(get_args(Action))}" if name == "roles" else ""
        raise ValueError(
            f'{name}: {where}: {first["msg"]} (people are "*", "admins", "group:NAME", "user:NAME"{known})'
        ) from None
