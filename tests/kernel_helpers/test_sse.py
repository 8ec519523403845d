import random

import pytest

from samovar.sse import Comment, Data, parse_events

STREAM = (
    ': loading 43%\n\ndata: {"a": "é\u2028\x85"}\n\n'
    "event: x\nid: 3\ndata:no space\ndata: second line\n\n: waiting\ndata: [DONE]\n\ndata: cut off"
).encode()
EVENTS = [
    Comment("loading 43%"),
    Data('{"a": "é\u2028\x85"}'),
    Data("no space\nsecond line", "x", "3"),
    Comment("waiting"),
    Data("[DONE]", id="3"),
]


def test_events_and_comments() -> None:
    assert list(parse_events([STREAM])) == EVENTS


def test_lines_may_end_in_crlf() -> None:
    assert list(parse_events([STREAM.replace(b"\n", b"\r\n")])) == EVENTS


@pytest.mark.parametrize("seed", range(20))
def test_chunk_borders_do_not_matter(seed: int) -> None:
    draw = random.Random(seed)
    cuts = sorted(draw.sample(range(len(STREAM)), draw.randint(1, 40)))
    chunks = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
    assert list(parse_events(chunks)) == EVENTS


def test_an_event_is_there_as_soon_as_it_is_complete() -> None:
    events = parse_events(iter([b"data: 1\n\n", b"data: 2"]))
    assert next(events) == Data("1")
