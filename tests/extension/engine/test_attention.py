"""Attention is right; a query's bits are the same however a prompt is cut and whoever decodes beside it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from samovar_server.engine.attention import Settings, attend_rows
from samovar_server.engine.step import Decoding, Piece, Step, Together

LENGTH = 700
HEAD_DIM = 16
SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, -0.5])
SETTINGS = {
    "plain": Settings(None, None, None),
    "window": Settings(70, None, None),
    "narrow window": Settings(3, None, None),
    "softcap": Settings(None, 5.0, None),
    "sinks": Settings(None, None, SINKS),
    "all of it": Settings(130, 5.0, SINKS),
}


def states(kv_heads: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries [LENGTH, 6, HEAD_DIM], keys and values [1, kv_heads, more, HEAD_DIM]; noise behind."""
    source = torch.Generator().manual_seed(0)
    query = torch.randn(LENGTH, 6, HEAD_DIM, generator=source).to(dtype) * HEAD_DIM**-0.5
    key, value = torch.randn(2, 1, kv_heads, LENGTH + 64, HEAD_DIM, generator=source).to(dtype)
    return query, key, value


def attended(
    query: Tensor, key: Tensor, value: Tensor, pieces: Iterable[range], settings: Settings
) -> Tensor:
    """What all queries get, piece by piece."""
    parts = []
    for piece in pieces:
        step = Step(None, [Piece(0, [0] * len(piece), piece.start)])
        parts.append(attend_rows(query[piece.start : piece.stop], key, value, step, settings))
    return torch.cat(parts)


def chunks(length: int, budget: Callable[[], int]) -> Iterator[range]:
    """A prompt of `length` tokens cut anywhere."""
    start = 0
    while start < length:
        end = min(start + budget(), length)
        yield range(start, end)
        start = end


def reference(query: Tensor, key: Tensor, value: Tensor, settings: Settings) -> Tensor:
    """The same by the textbook, in double precision."""
    n, heads = query.shape[:2]
    key, value = (
        part[0, :, :n].repeat_interleave(heads // part.shape[1], 0).double() for part in (key, value)
    )
    scores = query.double().transpose(0, 1) @ key.transpose(1, 2)
    if settings.softcap is not None:
        scores = settings.softcap * torch.tanh(scores / settings.softcap)
    at = torch.arange(n)
    hidden = at > at[:, None]
    if settings.window is not None:
        hidden |= at <= at[:, None] - settings.window
    scores.masked_fill_(hidden, float("-inf"))
    if settings.sinks is not None:
        scores = torch.cat([scores, settings.sinks.double()[:, None, None].expand(-1, n, 1)], -1)
    weights = torch.softmax(scores, -1)[..., :n]
    return (weights @ value).transpose(0, 1)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_a_prompt_cut_into_chunks_gets_the_same_bits(name: str, kv_heads: int) -> None:
    query, key, value = states(kv_heads)
    settings = SETTINGS[name]
    whole = attended(query, key, value, [range(LENGTH)], settings)
    expected = reference(query, key, value, settings)
    assert (whole - expected).abs().max() < 1e-5
    rng = random.Random(f"{name} {kv_heads}")
    for most in (1, 40, 300):
        pieces = chunks(LENGTH, partial(rng.randint, 1, most))
        assert torch.equal(attended(query, key, value, pieces, settings), whole), most


def test_a_cache_may_end_anywhere() -> None:
    """Nothing behind it is read, and nothing that is in it behind the last token counts."""
    query, key, value = states(2)
    for length in (1, 2, 15, 16, 17, 63, 64, 65, 100, LENGTH):
        held = key[:, :, :length].contiguous(), value[:, :, :length].contiguous()
        got = attended(query[:length], *held, [range(length)], SETTINGS["plain"])
        assert (got - reference(query[:length], *held, SETTINGS["plain"])).abs().max() < 1e-5, length
        with_noise = attended(query[:length], key, value, [range(length)], SETTINGS["plain"])
        assert torch.equal(with_noise, got)


def test_what_is_not_a_number_shows() -> None:
    query, key, value = states(2)
    key[0, 0, 3, 5] = float("nan")
    got = attended(query[:8], key, value, [range(8)], SETTINGS["plain"])
    assert got[:3].isfinite().all()
    assert got[3:, :3].isnan().all()


def test_half_precision_too_keeps_its_bits() -> None:
    query, key, value = states(2, torch.bfloat16)
    settings = SETTINGS["plain"]
    whole = attended(query, key, value, [range(LENGTH)], settings)
    assert (whole - reference(query, key, value, settings)).abs().max() < 0.05
    rng = random.Random(0)
    pieces = chunks(LENGTH, partial(rng.randint, 1, 100))
    assert torch.equal(attended(query, key, value, pieces, settings), whole)


def decoded(
    query: Tensor, key: Tensor, value: Tensor, positions: list[int], slots: list[int], settings: Settings
) -> Tensor:
    """What new tokens of `slots` at `positions` get, in one step."""
    step = Step(Decoding(torch.tensor(slots), torch.tensor(positions)), [])
    return attend_rows(query, key, value, step, settings)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_token_gets_the_same_bits_whether_it_was_decoded_or_read_in_a_prompt(name: str) -> None:
    query, key, value = states(2)
    read = attended(query, key, value, [range(LENGTH)], SETTINGS[name])
    for position in (0, 1, 70, 71, 130, 131, LENGTH - 1):
        new = decoded(query[position][None], key, value, [position], [0], SETTINGS[name])
        assert torch.equal(new[0], read[position]), position


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_a_gpus_way_gives_the_same_but_for_rounding(name: str, kv_heads: int) -> None:
    """Tried on the CPU: new tokens of some slots, with a gap between them, and a piece behind."""
    source = torch.Generator().manual_seed(0)
    key, value = torch.randn(2, 4, kv_heads, 256, HEAD_DIM, generator=source)
    query = torch.randn(52, 6, HEAD_DIM, generator=source) * HEAD_DIM**-0.5
    slots, positions = [0, 3], torch.tensor([100, 255])
    index, pieces = torch.tensor(slots), [Piece(1, [0] * 50, 100)]
    ours = Step(Decoding(index, positions), pieces)
    together = Together.of(slots, index, positions, 256)
    fused = Step(Decoding(index, positions, together), pieces, fused=True)
    mine, theirs = (attend_rows(query, key, value, step, SETTINGS[name]) for step in (ours, fused))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    alone = Step(fused.decoding, [], fused=True)
    torch.testing.assert_close(
        attend_rows(query[:2], key, value, alone, SETTINGS[name]), theirs[:2], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("kv_heads", "head_dim"), [(1, 64), (1, 128), (2, 64), (2, 128), (6, 16), (6, 128)])
def test_a_new_token_gets_the_same_bits_whoever_is_beside_it(name: str, kv_heads: int, head_dim: int) -> None:
    source = torch.Generator().manual_seed(0)
    settings, slots = SETTINGS[name], 8
    key, value = torch.randn(2, slots, kv_heads, 2048, head_dim, generator=source)
    rng = random.Random(f"{name} {kv_heads} {head_dim}")
    for position in (3, 40, 110, 150, 200, 390, 700, 1500):
        query = torch.randn(slots, 6, head_dim, generator=source) * head_dim**-0.5
        alone = torch.cat(
            [decoded(query[slot][None], key, value, [position], [slot], settings) for slot in (0, 1)]
        )
        at = torch.arange(2048) == position
        textbook = query.new_zeros(2048, 6, head_dim)
        textbook[at] = query[:1]
        expected = reference(textbook[: position + 1], key, value, settings)[-1]
        assert (alone[0] - expected).abs().max() < 1e-5
        for longest in (position, position + 20, 1000, 2047):
            others = [rng.randrange(max(longest, position) + 1) for _ in range(slots - 2)]
            positions = [position, position, *others[:-1], max(longest, position)]
            beside = decoded(query, key, value, positions, list(range(slots)), settings)
            assert torch.equal(beside[:2], alone), (position, longest)
