"""Text from tokens, whatever the borders; stop strings; chats to prompts."""

from __future__ import annotations

import random

import pytest

from samovar_server.engine.text import Detokenizer, StopStrings, TextStream


class Bytes:
    """A tokenizer whose tokens are single bytes: the hardest case for UTF-8. Token 256 is special."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")


def test_characters_are_given_out_whole() -> None:
    detokenizer = Detokenizer(Bytes())
    pieces = [detokenizer.add(byte) for byte in "aé🫖b".encode()]
    assert pieces == ["a", "", "é", "", "", "", "🫖", "b"]
    assert detokenizer.flush() == ""


def test_an_unfinished_character_comes_out_at_the_end_as_a_replacement() -> None:
    detokenizer = Detokenizer(Bytes())
    assert [detokenizer.add(byte) for byte in "a🫖".encode()[:-1]] == ["a", "", "", ""]
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_add_nothing() -> None:
    detokenizer = Detokenizer(Bytes())
    assert [detokenizer.add(token) for token in (104, 256, 105)] == ["h", "", "i"]


@pytest.mark.parametrize("seed", range(200))
def test_pieces_add_up_to_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("ab é中🫖\n\u200d👩") for _ in range(rng.randrange(30)))
    detokenizer = Detokenizer(Bytes())
    pieces = [detokenizer.add(byte) for byte in text.encode()] + [detokenizer.flush()]
    assert "".join(pieces) == text


def test_a_stop_string_is_found_across_pieces_and_never_shown() -> None:
    stops = StopStrings(["END"])
    assert [stops.add(piece) for piece in ("one E", "N", "E", "N", "D two")] == ["one ", "", "EN", "", ""]
    assert stops.found


def test_the_earliest_of_several_stops_wins() -> None:
    stops = StopStrings(["c", "b"])
    assert stops.add("abc") == "a"


def test_what_only_looked_like_a_stop_is_shown_in_the_end() -> None:
    stops = StopStrings(["\n\n"])
    assert stops.add("text\n") == "text"
    assert stops.flush() == "\n"
    assert not stops.found


@pytest.mark.parametrize("seed", range(300))
def test_stops_cut_where_a_search_in_the_whole_text_would(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("abc") for _ in range(40))
    stops = [
        "".join(rng.choice("abc") for _ in range(rng.randrange(1, 6))) for _ in range(rng.randrange(1, 4))
    ]
    hits = [text.find(stop) for stop in stops if stop in text]
    # The stream ends with the piece in which a stop completes; of stops in it, the first counts.
    stream = TextStream(Bytes(), stops)
    shown = ""
    for byte in text.encode():
        shown += stream.add(byte)
        if stream.stopped:
            break
    else:
        shown += stream.flush()
    assert stream.stopped == bool(hits)
    assert not any(stop in shown for stop in stops)
    if not hits:
        assert shown == text
    else:
        completes = min(text.find(stop) + len(stop) for stop in stops if stop in text)
        first = min(text[:completes].find(stop) for stop in stops if stop in text[:completes])
        assert shown == text[:first]
