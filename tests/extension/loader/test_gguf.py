from __future__ import annotations

from pathlib import Path

import pytest

from samovar_server.errors import LoadFailed
from samovar_server.loader.gguf import GgufHeader, read_header
from tests.fakes.gguf import VOCABULARY, write_gguf


def test_the_shape_is_read_from_the_header(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf")
    assert read_header([file]) == GgufHeader(
        architecture="llama",
        max_context=256,
        layers=4,
        kv_values=4 * 2 * (16 + 16),
        vocabulary=VOCABULARY,
        elements=640,
    )


def test_layers_may_differ_in_their_heads(tmp_path: Path) -> None:
    assert read_header([write_gguf(tmp_path / "m.gguf", kv_heads=[4, 2, 1, 1])]).kv_values == 8 * 32


def test_parts_add_up(tmp_path: Path) -> None:
    first, second = write_gguf(tmp_path / "1.gguf"), write_gguf(tmp_path / "2.gguf", elements=1280)
    assert read_header([first, second]).elements == 640 + 1280


@pytest.mark.parametrize("kept", [0, 3, 8, 30, 200, 3000])
def test_a_damaged_file_is_told_without_its_path(kept: int, tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    assert len(whole) > 3000
    (tmp_path / "half.gguf").write_bytes(whole[:kept])
    with pytest.raises(LoadFailed, match=r"^half\.gguf cannot be read") as caught:
        read_header([tmp_path / "half.gguf"])
    assert str(tmp_path) not in caught.value.message


def test_a_file_of_another_kind_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK" + bytes(100))
    with pytest.raises(LoadFailed, match="not a GGUF file"):
        read_header([tmp_path / "m.gguf"])
    with pytest.raises(LoadFailed, match="No such file"):
        read_header([tmp_path / "gone.gguf"])
