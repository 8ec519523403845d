from __future__ import annotations

import random

import pytest

from samovar_server.loader.child import LineSplitter


def split(data: bytes, sizes: list[int], limit: int) -> list[bytes]:
    splitter = LineSplitter(limit)
    lines: list[bytes] = []
    for size in sizes:
        lines += splitter.feed(data[:size])
        data = data[size:]
    return lines + splitter.feed(data) + splitter.flush()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"12345678\nx\n", [b"123", b"456", b"78", b"x"]),
    ],
)
def test_lines_and_pieces_of_overlong_ones(data: bytes, lines: list[bytes]) -> None:
    assert split(data, [], limit=3) == lines


def test_nothing_is_lost_wherever_the_stream_is_cut() -> None:
    rng = random.Random(0)
    for _ in range(200):
        lines = [bytes(rng.choices(b"abc", k=rng.randint(0, 9))) for _ in range(5)]
        sizes = [rng.randint(1, 8) for _ in range(6)]
        assert split(b"".join(line + b"\n" for line in lines), sizes, limit=100) == lines
