"""A cache with everything around it in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from samovar_server.cache.manager import ModelCache
from samovar_server.cache.telling import Told
from tests.fakes.in_memory import FakeLauncher, ManualClock, OneDevice


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def device() -> OneDevice:
    return OneDevice(budget=100)


@pytest.fixture
def told() -> list[Told]:
    """What the cache has told."""
    return []


@pytest.fixture
def cache(
    launcher: FakeLauncher,
    device: OneDevice,
    clock: ManualClock,
    told: list[Told],
    jp_asyncio_loop: asyncio.AbstractEventLoop,
) -> Iterator[ModelCache]:
    """Models expire after 300 s; the budget is 100 bytes."""
    log = logging.getLogger("samovar")
    cache = ModelCache(launcher.launch, device, clock=clock, log=log, default_ttl=300.0, tell=told.append)
    yield cache
    launcher.stops_at_once = True
    jp_asyncio_loop.run_until_complete(cache.close())
