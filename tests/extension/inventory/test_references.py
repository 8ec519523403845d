from __future__ import annotations

import time
from pathlib import Path

import pytest

from samovar_server.errors import InvalidRequest, ModelNotFound
from samovar_server.inventory.references import ModelReference, ResolvedModel, parse_reference, resolve
from tests.fakes.folders import COMMIT, cache_snapshot, gguf_files, make_model

ALIASES = {"demo": "org/tiny"}


def find(text: str, *folders: Path) -> ResolvedModel:
    return resolve(text, folders=folders, aliases=ALIASES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ModelReference("org/name")),
        ("name", ModelReference("name")),
        ("org/name@main", ModelReference("org/name", "main")),
        ("org/name@refs/pr/1", ModelReference("org/name", "refs/pr/1")),
        ("org/name:model.Q4_1.gguf", ModelReference("org/name", None, "model.Q4_1.gguf")),
        ("org/name@v1:Q4_K_M", ModelReference("org/name", "v1", "Q4_K_M")),
        ("demo", ModelReference("org/tiny")),
        ("модель/茶炊", ModelReference("модель/茶炊")),
        ("a/b/c", ModelReference("a/b/c")),
    ],
)
def test_a_reference_comes_apart(text: str, expected: ModelReference) -> None:
    assert parse_reference(text, ALIASES) == expected


@pytest.mark.parametrize("text", ["org/name", "org/name@main", "org/name:f.gguf", "org/name@v1:Q4_K_M"])
def test_a_reference_reads_as_it_was_written(text: str) -> None:
    assert str(parse_reference(text, {})) == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", True),
        ("org/name.v1_2-x", True),
        ("a/b/c", False),
        ("org/na--me", False),
        ("org/na..me", False),
        ("модель", False),
        ("/org/name", False),
        ("org/-name", False),
        ("org/name.", False),
        ("x" * 97, False),
    ],
)
def test_only_names_that_the_hub_can_have_are_looked_up_there(name: str, expected: bool) -> None:
    assert ModelReference(name).is_hub_name is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " org/name",
        "org/name\n",
        "..",
        "../secret",
        "org/../../secret",
        "org/..",
        ".",
        "./name",
        "org//name",
        "org/",
        "//name",
        "/",
        "~",
        "~/models/name",
        "~root/name",
        ".hidden",
        "org/.hidden",
        "org\\name",
        "..\\secret",
        "C:\\models\\name",
        "na\0me",
        "na\x1bme",
        "na\u2028me",
        "na\ud800me",
        "org/name@",
        "org/name@../main",
        "org/name@-x",
        "org/name@a..b",
        "@main",
        "org/name:",
        "org/name:../f.gguf",
        "org/name:/f.gguf",
        ":f.gguf",
        "x" * 256,
        "ж" * 128,
        "a/" * 600 + "a",
    ],
)
def test_what_is_no_name_is_refused_before_the_disk_is_touched(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find(text, Path("/nowhere"))
    assert caught.value.param == "model"
    assert "nowhere" not in caught.value.message


@pytest.mark.parametrize("text", ["/etc", "/etc/passwd", "/models-but-longer/x"])
def test_an_absolute_path_outside_the_folders_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="outside the model folders") as caught:
        find(text, Path("/models"))
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    "text", ["org/q:Q4_K_M", "org/q:q4_k_m", "org/q:m-Q4_K_M.gguf", "org/q/m-Q4_K_M.gguf"]
)
def test_a_gguf_file_is_named_by_tag_or_file(text: str, models: Path) -> None:
    wanted, other = gguf_files(models / "org/q", "m-Q4_K_M.gguf", "m-Q8_0.gguf")
    found = find(text, models)
    assert (found.path, found.files, found.is_gguf) == (wanted, (wanted,), True)
    assert other not in found.files


def test_the_only_gguf_file_needs_no_tag(models: Path) -> None:
    (file,) = gguf_files(models / "org/q", "m.Q4_1.gguf")
    assert find("org/q", models) == ResolvedModel("org/q", "org/q:Q4_1", file, "folder", None, (file,))


def test_of_several_gguf_files_one_has_to_be_named(models: Path) -> None:
    gguf_files(models / "q", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf")
    with pytest.raises(InvalidRequest, match=r"Name one of: q:Q4_K_M, q:Q8_0\."):
        find("q", models)
    with pytest.raises(ModelNotFound, match=r"has no 'Q2_K' here. It has: q:Q4_K_M, q:Q8_0\."):
        find("q:Q2_K", models)


@pytest.mark.parametrize("folder", ["", "Q4_K_M"])
def test_the_parts_of_a_gguf_model_are_one_model_when_all_are_there(folder: str, models: Path) -> None:
    names = [f"m-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    parts = gguf_files(models / "big" / folder, *names)
    assert find("big:Q4_K_M", models).files == tuple(parts)
    parts[1].unlink()
    with pytest.raises(ModelNotFound):
        find("big:Q4_K_M", models)


def test_safetensors_come_first_where_a_folder_has_both(models: Path) -> None:
    make_model(models / "both")
    (file,) = gguf_files(models / "both", "m-Q8_0.gguf")
    assert not find("both", models).is_gguf
    assert find("both:Q8_0", models).path == file


def test_a_gguf_file_that_is_a_link_out_of_the_folders_is_refused(models: Path, tmp_path: Path) -> None:
    (outside,) = gguf_files(tmp_path / "elsewhere", "m.gguf")
    (models / "q").mkdir()
    (models / "q/m.gguf").symlink_to(outside)
    for text in ("q", "q:m.gguf", "q/m.gguf"):
        with pytest.raises(InvalidRequest, match="leaves the model folders"):
            find(text, models)


def test_a_gguf_repo_in_the_hub_cache(models: Path, hub_cache: Path) -> None:
    """Such repos often have no config.json."""
    repo = hub_cache / "models--org--q"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(COMMIT)
    (file,) = gguf_files(repo / "snapshots" / COMMIT, "m-Q8_0.gguf")
    for text in ("org/q:Q8_0", "org/q", f"org/q@{COMMIT}"):
        found = find(text, models)
        assert (found.path, found.name, found.source, found.revision) == (
            file,
            "org/q:Q8_0",
            "hub-cache",
            COMMIT,
        )


@pytest.mark.parametrize("text", ["demo", "org/tiny", "tiny"])
def test_every_way_to_ask_leads_to_one_name(text: str, models: Path) -> None:
    path = make_model(models / "tiny", name="org/tiny")
    assert find(text, models) == ResolvedModel(text, "org/tiny", path, "folder", None)


def test_an_absolute_path_below_a_folder_is_a_reference(models: Path) -> None:
    path = make_model(models / "tiny", name="org/tiny")
    assert find(str(path), models) == ResolvedModel(str(path), "org/tiny", path, "folder", None)


@pytest.mark.parametrize("place", ["tiny", "org/tiny", "lab/org/tiny", "модель/茶炊", "with space"])
def test_a_folder_without_provenance_is_named_by_its_place(place: str, models: Path) -> None:
    path = make_model(models / place)
    found = find(place, models)
    assert (found.name, found.path) == (place, path)


def test_the_model_folder_itself_is_no_model(models: Path) -> None:
    make_model(models / "inner")
    with pytest.raises(InvalidRequest, match="outside"):
        find(str(models), models)


def test_the_first_folder_that_has_it_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_model(second / "tiny")
    assert find("tiny", first, second).path == second / "tiny"
    make_model(first / "tiny")
    assert find("tiny", first, second).path == first / "tiny"


def test_a_folder_of_another_repo_with_the_same_last_part_is_not_meant(models: Path) -> None:
    make_model(models / "tiny", name="org/tiny")
    with pytest.raises(ModelNotFound):
        find("other/tiny", models)


def test_a_folder_of_unknown_origin_answers_to_its_last_part(models: Path) -> None:
    path = make_model(models / "tiny")
    assert find("any/tiny", models) == ResolvedModel("any/tiny", "tiny", path, "folder", None)


@pytest.mark.parametrize("name", ["link", "org/link"])
def test_a_link_that_leaves_the_folders_is_refused(name: str, models: Path, tmp_path: Path) -> None:
    outside = make_model(tmp_path / "outside")
    (models / "link").symlink_to(outside)
    with pytest.raises(InvalidRequest, match="a link that leaves") as caught:
        find(name, models)
    assert str(tmp_path) not in caught.value.message


def test_a_link_half_way_is_followed_too(models: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "outside" / "tiny")
    (models / "org").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidRequest, match="a link that leaves"):
        find("org/tiny", models)


def test_a_link_into_another_model_folder_is_fine(models: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "more" / "tiny")
    (models / "link").symlink_to(tmp_path / "more" / "tiny")
    assert find("link", models, tmp_path / "more").path == models / "link"


def test_a_model_folder_may_itself_be_a_link(models: Path, tmp_path: Path) -> None:
    make_model(models / "tiny")
    (tmp_path / "alias").symlink_to(models)
    assert find("tiny", tmp_path / "alias").name == "tiny"


@pytest.mark.parametrize("target", ["nowhere", "loop"])
def test_a_link_to_nothing_is_not_found(target: str, models: Path) -> None:
    (models / "loop").symlink_to(models / target)
    with pytest.raises(ModelNotFound):
        find("loop", models)


def test_a_file_is_no_model(models: Path) -> None:
    (models / "file").write_text("")
    for text in ("file", "file/below"):
        with pytest.raises(ModelNotFound):
            find(text, models)


def test_an_incomplete_folder_is_not_found(models: Path) -> None:
    (make_model(models / "tiny") / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound):
        find("tiny", models)


def test_the_hub_cache_is_looked_into_after_the_folders(models: Path, hub_cache: Path) -> None:
    snapshot = cache_snapshot(hub_cache, "org/tiny")
    assert find("demo", models) == ResolvedModel("demo", "org/tiny", snapshot, "hub-cache", COMMIT)
    make_model(models / "tiny", name="org/tiny")
    assert find("demo", models).source == "folder"


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_revision_is_looked_up_in_the_hub_cache_only(revision: str, models: Path, hub_cache: Path) -> None:
    make_model(models / "tiny", name="org/tiny")
    snapshot = cache_snapshot(hub_cache, "org/tiny", ref="v1")
    found = find(f"org/tiny@{revision}", models)
    assert (found.path, found.name, found.revision) == (snapshot, "org/tiny", COMMIT)
    with pytest.raises(ModelNotFound):
        find("org/tiny@v2", models)


def test_a_snapshot_without_weights_is_not_found(models: Path, hub_cache: Path) -> None:
    (cache_snapshot(hub_cache, "org/tiny") / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound):
        find("org/tiny", models)


def test_what_is_missing_is_told_with_the_next_step_and_without_paths(models: Path) -> None:
    with pytest.raises(ModelNotFound, match="samovar pull org/other@v1") as caught:
        find("org/other@v1", models)
    assert caught.value.param == "model"
    assert str(models) not in caught.value.message
    with pytest.raises(ModelNotFound, match="samovar list"):
        find("a/b/c", models)


def test_no_folder_at_all_is_fine(models: Path) -> None:
    with pytest.raises(ModelNotFound):
        find("tiny")
    with pytest.raises(ModelNotFound):
        find("tiny", models / "not made yet")


def test_a_long_hostile_reference_is_refused_quickly() -> None:
    start = time.perf_counter()
    for text in ("a-" * 500 + "!", "a@" + "a." * 500 + "/", "@" * 1000, ":" * 1000):
        with pytest.raises((InvalidRequest, ModelNotFound)):
            find(text)
    assert time.perf_counter() - start < 5
