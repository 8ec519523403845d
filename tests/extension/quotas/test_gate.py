"""Refusals say what, when and whom to ask."""

from __future__ import annotations

from typing import Any

import pytest

from samovar_server.callers import Caller
from samovar_server.errors import PermissionDenied, QuotaExceeded
from samovar_server.quotas.gate import Gate
from samovar_server.quotas.rules import Rules
from samovar_server.quotas.window import HOUR

ADA, BOB = Caller("ada"), Caller("bob")
NOW = 1000.0 * HOUR


def gate(limits: dict[str, Any], used: dict[int, int] | None = None) -> Gate:
    return Gate(Rules.read({"*": limits}, {}), "it@school.example", lambda user: used or {}, lambda: NOW)


def test_one_request_too_many_is_refused_and_others_are_not_concerned() -> None:
    entrance = gate({"requests": 2})
    with entrance.request(ADA), entrance.request(ADA):
        with pytest.raises(QuotaExceeded, match=r"2 requests under way.*it@school\.example") as refused:
            entrance.request(ADA).__enter__()
        with entrance.request(BOB):
            pass
    assert refused.value.retry_after
    with entrance.request(ADA):
        pass


def test_a_request_that_fails_is_under_way_no_more() -> None:
    entrance = gate({"requests": 1})
    for _ in range(3):
        with pytest.raises(RuntimeError), entrance.request(ADA):
            raise RuntimeError


def test_a_days_tokens_are_told_with_the_hour_at_which_there_are_more() -> None:
    entrance = gate({"tokens_per_day": 1500}, {990: 1000, 999: 600})
    with pytest.raises(QuotaExceeded, match=r"1,600 tokens .* 1,500 .* in 14 h 0 min\. Ask it@") as refused:
        entrance.request(ADA).__enter__()
    assert refused.value.retry_after == 14 * HOUR
    assert refused.value.status == 429


def test_who_is_below_his_quota_may_go_on() -> None:
    with gate({"tokens_per_day": 1500}, {999: 1499}).request(ADA):
        pass


def test_a_model_that_is_not_for_the_caller_is_refused_with_those_that_are() -> None:
    with pytest.raises(PermissionDenied, match=r"models for you: demo, org/\*\. Ask it@") as refused:
        gate({"models": ["demo", "org/*"]}).require_model(ADA, {"other/x"})
    assert (refused.value.status, refused.value.param) == (403, "model")


def test_what_only_admins_may_do_is_refused_with_whom_to_ask() -> None:
    entrance = gate({})
    with pytest.raises(PermissionDenied, match=r"You may not delete models on this server\. Ask it@"):
        entrance.require(ADA, "delete", "delete models")
    entrance.require(Caller("root", admin=True), "delete", "delete models")
