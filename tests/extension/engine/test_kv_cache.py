"""The KV cache's buffers: they grow without losing anything, and take memory only where they are used."""

from __future__ import annotations

import sys

import pytest
import torch

from samovar_server.engine.kv_cache import SlotCache, SlotLayer
from samovar_server.workers.pipes import resident_bytes

HEADS, DIM = 4, 64
TOKEN_BYTES = 2 * HEADS * DIM * 4
MEGABYTE = 10**6


def one_layer(slots: int, context_length: int) -> tuple[SlotCache, SlotLayer]:
    cache = SlotCache(1, slots, context_length)
    (layer,) = cache.layers
    layer.lazy_initialization(torch.zeros(1, HEADS, 1, DIM), torch.zeros(1, HEADS, 1, DIM))
    return cache, layer


def test_growing_keeps_what_was_written() -> None:
    cache, layer = one_layer(8, 4096)
    cache.reserve([(1, 200), (3, 7)])
    layer.keys[1, :, :200] = 1.0
    layer.values[3, :, :7] = 2.0
    cache.reserve([(6, 3000)])
    assert layer.keys.shape == (8, HEADS, 4096, DIM)
    assert bool((layer.keys[1, :, :200] == 1).all())
    assert bool((layer.values[3, :, :7] == 2).all())
    assert int(layer.keys.count_nonzero()) == 200 * HEADS * DIM
    assert int(layer.values.count_nonzero()) == 7 * HEADS * DIM


def test_room_for_long_texts_takes_no_memory_before_they_come() -> None:
    cache, layer = one_layer(16, 32768)
    before = resident_bytes()
    cache.reserve([(15, 32768)])
    assert cache.nbytes() == 16 * 32768 * TOKEN_BYTES  # a gigabyte
    assert resident_bytes() - before < 100 * MEGABYTE
    layer.keys[15] = layer.values[15] = 1.0
    assert resident_bytes() - before > 60 * MEGABYTE


def test_what_is_still_to_come_is_counted_in_tokens() -> None:
    cache, _ = one_layer(4, 1024)
    cache.reserve([(0, 100), (1, 50)])
    cache.reserve([(0, 20)])  # shorter than before: its pages stay
    assert cache.growth_bytes(1000) == 850 * TOKEN_BYTES
    assert cache.growth_bytes(100) == 0
    assert cache.growth_bytes(None) == (4 * 1024 - 150) * TOKEN_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take back a part of a mapping")
def test_what_is_given_back_takes_no_memory_and_the_rest_stays() -> None:
    cache, layer = one_layer(8, 8192)
    cache.reserve([(7, 8192)])
    before = resident_bytes()
    layer.keys[2] = layer.values[2] = 1.0
    layer.keys[3, :, :10] = 2.0
    cache.filled[2] = 8192
    taken = resident_bytes() - before
    cache.trim(2, 100)
    assert resident_bytes() - before < taken / 4
    assert bool((layer.keys[2, :, :100] == 1).all())
    assert bool((layer.values[2, :, :100] == 1).all())
    assert bool((layer.keys[3, :, :10] == 2).all())
    assert cache.filled[2] == 100
    layer.keys[2, :, 100:] = 3.0  # and it can be written to again
    assert bool((layer.keys[2, :, 100:] == 3).all())
