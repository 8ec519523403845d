"""Who calls: what turns, quotas, usage and privacy know of the person behind a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """A person, however many servers, notebooks and tokens of his the requests come from.

    `name` is unique among all callers of this server. `groups` are those that the settings may speak of, and
    `admin` says that he manages the service.
    """

    name: str
    groups: frozenset[str] = frozenset()
    admin: bool = False


OWNER = Caller("owner", admin=True)
"""Whoever calls a server that belongs to one person, as Jupyter on a laptop does."""
