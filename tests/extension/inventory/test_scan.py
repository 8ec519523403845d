from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samovar_server.inventory.references import resolve
from samovar_server.inventory.scan import is_complete, list_models
from tests.fakes.folders import COMMIT, cache_snapshot, gguf_files, make_model


def names(*folders: Path) -> list[str]:
    return [model.name for model in list_models(folders)]


def shard(path: Path, *names: str) -> None:
    (path / "model.safetensors").unlink()
    index = {"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def test_models_are_found_up_to_three_levels_down(models: Path) -> None:
    make_model(models / "tiny")
    make_model(models / "org" / "name")
    make_model(models / "lab" / "org" / "deep")
    make_model(models / "a" / "b" / "c" / "too deep")
    assert names(models) == ["lab/org/deep", "org/name", "tiny"]


def test_what_is_listed_can_be_resolved(models: Path, hub_cache: Path) -> None:
    make_model(models / "tiny", name="org/tiny")
    make_model(models / "lab" / "other")
    cache_snapshot(hub_cache, "org/cached")
    cache_snapshot(hub_cache, "org/old", ref=None, commit="f" * 40)
    listed = list_models([models])
    assert [model.name for model in listed] == ["lab/other", "org/cached", f"org/old@{'f' * 40}", "org/tiny"]
    for model in listed:
        found = resolve(model.name, folders=[models], aliases={})
        assert (found.path, found.source) == (model.path, model.source)


def test_size_and_time_are_the_files(models: Path) -> None:
    path = make_model(models / "tiny")
    for file in path.iterdir():
        os.utime(file, (1, 1000.0))
    os.utime(path / "config.json", (1, 2000.0))
    (listed,) = list_models([models])
    assert (listed.size_bytes, listed.modified, listed.source) == (
        len("{}") + len("weights"),
        2000.0,
        "folder",
    )


def test_links_of_a_snapshot_count_as_what_they_point_to(hub_cache: Path) -> None:
    snapshot = cache_snapshot(hub_cache, "org/cached")
    blob = snapshot.parents[1] / "blobs" / "abc"
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    (listed,) = list_models([])
    assert listed.size_bytes == len("{}") + len("weights")


def test_one_name_in_several_places_is_listed_once(tmp_path: Path, hub_cache: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_model(second / "tiny", name="org/tiny")
    make_model(first / "tiny", name="org/tiny")
    cache_snapshot(hub_cache, "org/tiny")
    (listed,) = list_models([first, second])
    assert listed.path == first / "tiny"


def test_a_snapshot_that_two_names_point_to_is_listed_once(hub_cache: Path) -> None:
    path = cache_snapshot(hub_cache, "org/cached")
    (path.parents[1] / "refs" / "v1").write_text(COMMIT)
    assert names() == ["org/cached"]


def test_downloads_under_way_and_links_outside_are_not_listed(models: Path, tmp_path: Path) -> None:
    make_model(models / ".tiny.partial-x" / "model")
    make_model(models / ".hidden")
    (models / "link").symlink_to(make_model(tmp_path / "outside"))
    assert names(models) == []


def test_folders_that_are_not_there_are_empty(models: Path) -> None:
    assert names(models / "none", models) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_passed_over(models: Path) -> None:
    make_model(models / "tiny")
    (models / "closed").mkdir(mode=0o000)
    assert names(models) == ["tiny"]


def test_a_broken_cache_entry_does_not_hide_the_others(hub_cache: Path) -> None:
    cache_snapshot(hub_cache, "org/cached")
    (hub_cache / "models--org--broken").mkdir()
    (hub_cache / "models--org--empty" / "snapshots" / COMMIT).mkdir(parents=True)
    assert names() == ["org/cached"]


def test_data_sets_are_no_models(hub_cache: Path) -> None:
    make_model(hub_cache / "datasets--org--data" / "snapshots" / COMMIT)
    assert names() == []


def test_a_sharded_model_is_complete_with_all_its_shards(models: Path) -> None:
    path = make_model(models / "tiny")
    shard(path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    (path / "model-00001-of-00002.safetensors").touch()
    assert not is_complete(path)
    (path / "model-00002-of-00002.safetensors").touch()
    assert is_complete(path)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "\ufffe"])
def test_a_broken_index_is_not_a_complete_model(models: Path, index: str) -> None:
    path = make_model(models / "tiny")
    shard(path)
    (path / "model.safetensors.index.json").write_text(index)
    assert not is_complete(path)


@pytest.mark.parametrize("provenance", ["", "[]", "{}", '{"name": 3}', '{"name": ""}', "{"])
def test_a_broken_provenance_leaves_the_place_as_the_name(models: Path, provenance: str) -> None:
    (make_model(models / "tiny") / "samovar.json").write_text(provenance)
    assert names(models) == ["tiny"]


def test_looking_for_models_imports_no_torch() -> None:
    code = "import samovar_server.inventory.references, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_each_quantisation_in_gguf_is_a_model(models: Path) -> None:
    make_model(models / "org/both")
    gguf_files(models / "org/both", "m-Q8_0.gguf")
    gguf_files(models / "q", "m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf", "m-Q8_0.gguf")
    gguf_files(models, "alone.gguf")
    found = {model.name: model for model in list_models([models])}
    assert set(found) == {"org/both", "org/both:Q8_0", "q:Q4_K_M", "q:Q8_0", "alone.gguf"}
    assert found["q:Q4_K_M"].size_bytes == 2 * len(b"GGUF")
    assert found["org/both"].size_bytes == len(b"{}") + len(b"weights")
