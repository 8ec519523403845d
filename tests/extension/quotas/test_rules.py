"""What settings allow to whom."""

from __future__ import annotations

from typing import Any

import pytest

from samovar_server.callers import OWNER, Caller
from samovar_server.quotas.rules import Limits, Rules

ADA = Caller("ada", frozenset({"class"}))
BOB = Caller("bob", frozenset({"class", "staff"}))
ADMIN = Caller("root", admin=True)
MANAGING = ("pin", "unload", "download", "delete")


@pytest.mark.parametrize("action", ["generate", "load"])
def test_by_default_all_may_generate(action: Any) -> None:
    assert Rules.read({}, {}).may(ADA, action)


@pytest.mark.parametrize("action", MANAGING)
def test_by_default_admins_manage_and_the_owner_of_a_server_is_one(action: Any) -> None:
    rules = Rules.read({}, {})
    assert (rules.may(ADA, action), rules.may(ADMIN, action), rules.may(OWNER, action)) == (False, True, True)


def test_roles_name_users_groups_or_everybody_and_admins_may_always() -> None:
    rules = Rules.read({}, {"download": ["group:staff", "user:cleo"], "unload": ["*"], "generate": []})
    assert [rules.may(caller, "download") for caller in (ADA, BOB, Caller("cleo"), ADMIN)] == [0, 1, 1, 1]
    assert rules.may(ADA, "unload")
    assert not rules.may(ADA, "delete")  # not named: as by default
    assert not rules.may(ADA, "generate")
    assert rules.may(ADMIN, "generate")


def test_a_user_cannot_take_the_name_of_a_group() -> None:
    rules = Rules.read({}, {"download": ["group:staff"]})
    assert not rules.may(Caller("group:staff"), "download")
    assert not rules.may(Caller("staff"), "download")


def test_without_limits_nothing_is_limited() -> None:
    assert Rules.read({}, {}).limits_of(ADA) == Limits(requests=None, tokens_per_day=None, models=None)


def test_the_nearest_limit_counts_field_by_field_and_of_groups_the_most_generous() -> None:
    rules = Rules.read(
        {
            "*": {"requests": 2, "tokens_per_day": 100, "models": ["demo"]},
            "group:class": {"tokens_per_day": 500, "models": ["org/a"]},
            "group:staff": {"tokens_per_day": None, "models": ["org/b"]},
            "user:ada": {"requests": 7},
        },
        {},
    )
    assert rules.limits_of(Caller("eve")) == Limits(requests=2, tokens_per_day=100, models=["demo"])
    assert rules.limits_of(ADA) == Limits(requests=7, tokens_per_day=500, models=["org/a"])
    assert rules.limits_of(BOB) == Limits(requests=2, tokens_per_day=None, models=["org/a", "org/b"])


def test_models_are_named_with_stars() -> None:
    limits = Limits(models=["demo", "org/*"])
    assert [limits.allows([name]) for name in ("demo", "org/x", "other/org/x", "Demo")] == [1, 1, 0, 0]
    assert not Limits(models=[]).allows(["demo"])


@pytest.mark.parametrize(
    ("limits", "roles", "said"),
    [
        ({"staff": {}}, {}, 'limits: staff.*"group:NAME"'),
        ({"*": {"tokens": 5}}, {}, r"limits: \*\.tokens"),
        ({"*": {"requests": 0}}, {}, r"limits: \*\.requests"),
        ({}, {"eat": ["*"]}, "roles: eat.*generate, load, pin"),
        ({}, {"pin": ["ada"]}, r"roles: pin\.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(limits: Any, roles: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rules.read(limits, roles)
