from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, scan_cache_dir

from samovar_server import shelf as shelf_module
from samovar_server.errors import Conflict, InvalidRequest, ModelNotFound
from samovar_server.inventory.conversions import conversion_of
from samovar_server.inventory.leftovers import PARTIAL_SUFFIX
from samovar_server.inventory.locks import folder_lock
from samovar_server.shelf import Shelf
from tests.fakes.folders import COMMIT, gguf_files, make_adapter

NOW = 1e12

OTHER = "f" * 40
CONFIG = {"max_position_embeddings": 64, "dtype": "float32"}
HEADER = {"a": {"dtype": "F32", "shape": [10, 5], "data_offsets": [0, 200]}}


def safetensors() -> bytes:
    header = json.dumps(HEADER).encode()
    return struct.pack("<Q", len(header)) + header + bytes(200)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def shelf(folder: Path, cache: Path, tmp_path: Path) -> Shelf:
    return Shelf([folder], {"demo": "org/tiny"}, tmp_path / "converted")


def make_model(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "model.safetensors").write_bytes(safetensors())
    return path


def make_snapshot(cache: Path, name: str, commit: str, **files: bytes) -> Path:
    """As the cache has it: links into blobs, which revisions may share."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    for file, data in files.items():
        blob = repo / "blobs" / f"{hash(data):x}"
        blob.write_bytes(data)
        (snapshot / file.replace("_", ".")).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def snapshots(cache: Path) -> None:
    """Two revisions of org/tiny, which share the weights; the newer one is main."""
    for commit, config in ((OTHER, b"{}"), (COMMIT, json.dumps(CONFIG).encode())):
        make_snapshot(cache, "org/tiny", commit, config_json=config, model_safetensors=safetensors())
    (cache / "models--org--tiny" / "refs" / "main").write_text(COMMIT)


def told(shelf: Shelf) -> dict[str, dict[str, Any]]:
    return {model.stored.name: model.as_json() for model in shelf.inventory({}).models}


def test_a_model_and_what_its_files_say(shelf: Shelf, folder: Path) -> None:
    make_model(folder / "org" / "a")
    model = told(shelf)["org/a"]
    assert model["config_metadata"]["parameters"] == 50
    assert model["config_metadata"]["context_length"] == 64
    assert (model["model_type"], model["recommended_backend"]) == ("transformers", "transformers")
    assert (model["complete"], model["has_config"], model["source"]) == (True, True, "folder")
    assert [file["filename"] for file in model["files"]] == ["config.json", "model.safetensors"]
    assert model["total_size_bytes"] == sum(file["size_bytes"] for file in model["files"])


def test_the_licence_is_that_of_the_card_or_of_what_the_hub_said(shelf: Shelf, folder: Path) -> None:
    for name in ("card", "own", "list", "broken", "none", "said"):
        make_model(folder / name)
    cards = {
        "card": "---\nlicense: apache-2.0\n---\n# A model",
        "own": "---\nlicense: other\nlicense_name: llama9\n---\n",
        "list": "---\nlicense: [a, b]\n---\n",
        "broken": "---\nlicense: [\n---\n",
        "said": "---\nlicense: mit\n---\n",
    }
    for name, card in cards.items():
        (folder / name / "README.md").write_text(card)
    (folder / "said" / "samovar.json").write_text('{"name": "said", "license": "openrail"}')
    (folder / "card" / "model.safetensors").unlink()
    gguf_files(folder / "g", "m-Q4_0.gguf")
    (folder / "g" / "README.md").write_text(cards["card"])
    licences = {name: model["config_metadata"]["license"] for name, model in told(shelf).items()}
    assert licences == {
        "card": "apache-2.0",
        "own": "llama9",
        "list": None,
        "broken": None,
        "none": None,
        "said": "openrail",
        "g:Q4_0": "apache-2.0",
    }


def test_what_is_incomplete_is_listed_as_such(shelf: Shelf, folder: Path) -> None:
    (make_model(folder / "half") / "model.safetensors").unlink()
    pickle = folder / "pickle"
    pickle.mkdir()
    (pickle / "pytorch_model.bin").write_bytes(b"x")
    models = told(shelf)
    assert (models["half"]["complete"], models["half"]["recommended_backend"]) == (False, None)
    assert (models["pickle"]["complete"], models["pickle"]["model_type"]) == (False, "unknown")


def test_each_quantisation_in_gguf_is_a_model(shelf: Shelf, folder: Path) -> None:
    (folder / "g").mkdir(parents=True)
    for name in ("m-Q4_0.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "LICENSE"):
        (folder / "g" / name).write_bytes(b"damaged")
    models = told(shelf)
    assert set(models) == {"g:Q4_0", "g:Q8_0"}
    assert models["g:Q8_0"]["file_count"] == 2
    assert (models["g:Q4_0"]["model_type"], models["g:Q4_0"]["recommended_backend"]) == ("gguf", "llamacpp")
    assert models["g:Q4_0"]["files"][0]["quantization"] == "Q4_0"


def test_revisions_share_their_blobs_and_sizes_count_them_once(shelf: Shelf, cache: Path) -> None:
    snapshots(cache)
    inventory = shelf.inventory({})
    sizes = {model.stored.name: model.stored.size for model in inventory.models}
    assert set(sizes) == {"org/tiny", f"org/tiny@{OTHER}"}
    blobs = sum(blob.stat().st_size for blob in (cache / "models--org--tiny" / "blobs").iterdir())
    assert inventory.total_size == blobs < sum(sizes.values())


def test_headers_are_read_again_only_when_a_file_has_changed(
    shelf: Shelf, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model(folder / "a")
    reads: list[Path] = []

    def count(folder: Path) -> int:
        reads.append(folder)
        return len(reads)

    monkeypatch.setattr(shelf_module, "parameter_count", count)
    for _ in range(3):
        told(shelf)
    assert len(reads) == 1
    os.utime(path / "model.safetensors", ns=(0, 1))
    assert told(shelf)["a"]["config_metadata"]["parameters"] == 2


def test_looking_is_no_use(shelf: Shelf, folder: Path) -> None:
    path = make_model(folder / "a")
    for file in path.iterdir():
        os.utime(file, (1000.0, 1000.0))
    assert told(shelf)["a"]["last_used"] == 1000.0
    assert (path / "model.safetensors").stat().st_atime == 1000.0


def test_a_use_is_noted_where_the_file_system_does_not(shelf: Shelf, folder: Path) -> None:
    path = make_model(folder / "a")
    (gguf,) = gguf_files(folder / "g", "m-Q4_0.gguf")
    for file in (*path.iterdir(), gguf):
        os.utime(file, (1000.0, 1000.0))
    shelf.note_use(path, 3000.0)
    shelf.note_use(path, 2000.0)
    inventory = shelf.inventory({gguf: 4000.0, folder / "gone": 5000.0})
    used = {model.stored.name: model.as_json()["last_used"] for model in inventory.models}
    assert used == {"a": 3000.0, "g:Q4_0": 4000.0}
    assert (path / "config.json").stat().st_mtime == 1000.0


def test_a_folder_is_deleted(shelf: Shelf, folder: Path) -> None:
    path, other = make_model(folder / "org" / "a"), make_model(folder / "org" / "b")
    freed = shelf.delete(shelf.find("org/a"), resident=[other])
    assert freed == sum(file.stat().st_size for file in other.iterdir())
    assert (path.exists(), other.exists()) == (False, True)


def test_one_file_of_a_folder_in_gguf(shelf: Shelf, folder: Path) -> None:
    (folder / "g").mkdir(parents=True)
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf"):
        (folder / "g" / name).write_bytes(b"x")
    shelf.delete(shelf.find("g:Q4_0"), resident=[])
    assert [file.name for file in (folder / "g").iterdir()] == ["m-Q8_0.gguf"]


def test_a_revision_leaves_what_the_other_one_needs(shelf: Shelf, cache: Path) -> None:
    snapshots(cache)
    assert shelf.delete(shelf.find(f"org/tiny@{OTHER}"), resident=[]) == 2  # its config alone
    assert set(told(shelf)) == {"org/tiny"}
    assert told(shelf)["org/tiny"]["complete"]
    shelf.delete(shelf.find("demo"), resident=[])
    assert told(shelf) == {}
    assert scan_cache_dir(cache).repos == frozenset()


@pytest.mark.parametrize("inside", ["", "model.safetensors"])
def test_a_model_in_memory_stays(shelf: Shelf, folder: Path, inside: str) -> None:
    path = make_model(folder / "a")
    with pytest.raises(Conflict, match="unload it first"):
        shelf.delete(shelf.find("a"), resident=[path / inside])
    assert told(shelf)["a"]["complete"]


def test_what_cannot_be_deleted(shelf: Shelf, folder: Path, cache: Path) -> None:
    make_model(folder / "a")
    make_snapshot(cache, "org/g", COMMIT, **{"m-Q4_0_gguf": b"x"})
    for name in ("nothing", "org/a", "a@main"):
        with pytest.raises(ModelNotFound):
            shelf.find(name)
    with pytest.raises(InvalidRequest):
        shelf.find("../models")


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """The conversion of a model in GGUF that is there, and that of one that is not."""
    (gguf,) = gguf_files(tmp_path / "models" / "g", "m-Q4_0.gguf")
    folder = make_model(conversion_of(gguf, tmp_path / "converted"))
    make_model(tmp_path / "converted" / "gone-Q4_0-0123")
    return folder


def test_what_was_converted_is_listed_with_its_model_and_removed_with_it(
    shelf: Shelf, converted: Path
) -> None:
    assert told(shelf)["g:Q4_0"]["conversion"] == {
        "path": str(converted),
        "size_bytes": sum(file.stat().st_size for file in converted.iterdir()),
    }
    (left,) = shelf.inventory({}).leftovers
    assert (left.kind, left.path.name) == ("conversion", "gone-Q4_0-0123")
    assert {left.path.name for left in shelf.clean(before=NOW, busy=()).removed} == {"gone-Q4_0-0123"}
    shelf.delete(shelf.find("g:Q4_0"), resident=[])
    assert list(converted.parent.iterdir()) == [folder_lock(converted.with_name("gone-Q4_0-0123"))]


def test_what_downloads_left_is_listed_and_cleaned_by_age(shelf: Shelf, folder: Path, cache: Path) -> None:
    blobs = cache / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    old, new = blobs / f"a{PARTIAL_SUFFIX}", blobs / f"b{PARTIAL_SUFFIX}"
    hidden = folder / "org" / f".b{PARTIAL_SUFFIX}"
    hidden.mkdir(parents=True)
    for path in (old, new, hidden / "part"):
        path.write_bytes(b"12345")
    for path in (old, hidden / "part"):
        os.utime(path, (1000.0, 1000.0))
    left = shelf.inventory({}).leftovers
    assert {(each.kind, each.path, each.model, each.size_bytes) for each in left} == {
        ("partial", old, "org/tiny", 5),
        ("partial", new, "org/tiny", 5),
        ("partial", hidden, "org/b", 5),
    }
    assert {left.path for left in shelf.clean(before=2000.0, busy=["tiny"]).removed} == {hidden}
    assert {left.path for left in shelf.clean(before=2000.0, busy=[]).removed} == {old}
    assert new.exists()
    assert not old.exists()


def test_an_adapter_is_told_as_such_and_can_be_deleted(shelf: Shelf, folder: Path) -> None:
    path = make_adapter(folder / "me" / "style", base="org/tiny")
    (path / "README.md").write_text("---\nlicense: mit\n---\n")
    model = told(shelf)["me/style"]
    assert (model["model_type"], model["complete"], model["recommended_backend"]) == ("adapter", True, None)
    assert model["config_metadata"] == {"license": "mit", "base_model": "org/tiny", "rank": 4}
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.bin").write_bytes(b"pickle")
    assert not told(shelf)["me/style"]["complete"]
    shelf.delete(shelf.find("me/style"), set())
    assert not path.exists()
