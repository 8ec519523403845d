from __future__ import annotations

from pathlib import Path

import pytest

from samovar_server.errors import InvalidRequest, ModelNotFound
from samovar_server.inventory.adapters import OnDiskAdapter, list_adapters, split_adapter
from tests.fakes.folders import COMMIT, cache_snapshot, make_adapter, make_model

ALIASES = {"demo": "org/tiny", "mine": "org/tiny+me/style"}


def split(text: str, *folders: Path) -> tuple[str, OnDiskAdapter | None]:
    return split_adapter(text, folders=folders, aliases=ALIASES)


def test_what_stands_behind_the_last_plus_is_the_adapter(models: Path) -> None:
    adapter = OnDiskAdapter("me/style", make_adapter(models / "me" / "style"), "org/tiny")
    assert split("org/tiny+me/style", models) == ("org/tiny", adapter)
    assert split("demo+me/style", models) == ("demo", adapter)
    assert split("a+b@main:Q4_1+me/style", models) == ("a+b@main:Q4_1", adapter)
    assert split(f"org/tiny+{models}/me/style", models) == ("org/tiny", adapter)
    assert split("mine", models) == ("org/tiny", adapter)


def test_without_an_adapter_nothing_is_looked_up(models: Path) -> None:
    assert split("demo", models) == ("demo", None)


def test_a_model_whose_own_name_has_a_plus_is_still_found(models: Path) -> None:
    make_model(models / "one+two")
    make_adapter(models / "two")
    assert split("one+two", models) == ("one+two", None)
    adapter = split("one+two+two", models)[1]
    assert adapter is not None
    assert adapter.name == "two"


def test_an_adapter_in_the_hugging_face_cache_is_found(models: Path, hub_cache: Path) -> None:
    snapshot = hub_cache / "models--me--style" / "snapshots" / COMMIT
    make_adapter(snapshot)
    (hub_cache / "models--me--style" / "refs").mkdir()
    (hub_cache / "models--me--style" / "refs" / "main").write_text(COMMIT)
    for text in ("org/tiny+me/style", f"org/tiny+me/style@{COMMIT}"):
        assert split(text, models) == ("org/tiny", OnDiskAdapter("me/style", snapshot, "org/tiny"))
    assert [adapter.name for adapter in list_adapters([models])] == ["me/style"]


def test_an_unknown_adapter_is_answered_with_near_ones(models: Path) -> None:
    make_adapter(models / "me" / "style")
    make_adapter(models / "me" / "tone")
    with pytest.raises(ModelNotFound, match=r"no adapter 'me/stile' on this machine. There is: me/style"):
        split("org/tiny+me/stile", models)


def test_where_there_is_no_adapter_the_answer_says_where_to_put_one(models: Path) -> None:
    make_model(models / "org" / "tiny")
    with pytest.raises(ModelNotFound, match=r"Put its folder, with adapter_config.json, where models are"):
        split("demo+org/tiny", models)  # which is there, and no adapter


def test_a_pickled_adapter_is_refused(models: Path) -> None:
    (make_adapter(models / "old") / "adapter_model.safetensors").rename(models / "old" / "adapter_model.bin")
    with pytest.raises(InvalidRequest, match=r"Adapter old is pickled \(adapter_model.bin\)"):
        split("demo+old", models)


@pytest.mark.parametrize(
    "text", ["demo+", "demo+../out", "demo+.hidden", "demo+/etc", "demo+style:file", "demo+~x"]
)
def test_an_adapter_stays_within_the_folders(models: Path, text: str) -> None:
    make_adapter(models / "style")
    make_adapter(models.parent / "out")
    with pytest.raises(InvalidRequest):
        split(text, models)


def test_links_that_leave_the_folders_are_refused(models: Path, tmp_path: Path) -> None:
    outside = make_adapter(tmp_path / "outside")
    (models / "linked").symlink_to(outside)
    inside = make_adapter(models / "inside")
    (inside / "adapter_model.safetensors").unlink()
    (inside / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    for name in ("linked", "inside"):
        with pytest.raises(InvalidRequest, match="link that leaves the model folders"):
            split(f"demo+{name}", models)


def test_a_broken_config_hides_no_adapter(models: Path) -> None:
    (make_adapter(models / "style") / "adapter_config.json").write_text("{")
    assert list_adapters([models]) == [OnDiskAdapter("style", models / "style", "")]


def test_models_are_no_adapters(models: Path, hub_cache: Path) -> None:
    make_model(models / "m")
    cache_snapshot(hub_cache, "org/m")
    assert list_adapters([models]) == []
