from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions
from tests.fakes.in_memory import make_plan

PLAN = make_plan("a", device="cuda:1")


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(),
        LoadOptions(backend="transformers", device="cuda", dtype="float32", context_length=256),
        LoadOptions(device="cuda:1"),
    ],
)
def test_a_copy_satisfies_what_it_is_and_whoever_does_not_mind(options: LoadOptions) -> None:
    assert PLAN.satisfies(options)


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(device="cpu"),
        LoadOptions(device="cuda:0"),
        LoadOptions(dtype="bfloat16"),
        LoadOptions(context_length=128),
    ],
)
def test_a_copy_does_not_satisfy_other_options(options: LoadOptions) -> None:
    assert not PLAN.satisfies(options)


def test_two_revisions_are_two_models_and_their_keys_tell_them_apart() -> None:
    revisions = [
        replace(PLAN, model=ResolvedModel("a", "a", Path("/cache") / commit, "hub-cache", commit))
        for commit in ("c0ffee" * 7, "decade" * 7)
    ]
    assert revisions[0].identity != revisions[1].identity
    assert revisions[0].cache_key == "a@c0ffeec0ffee|transformers|cuda:1|float32|none|256"
    assert revisions[0].cache_key != revisions[1].cache_key
