from __future__ import annotations

import logging

from samovar_server.loader.options import LoadProgress
from samovar_server.loader.progress import ProgressFeed


def test_nothing_ever_falls() -> None:
    heard: list[LoadProgress] = []
    feed = ProgressFeed(logging.getLogger("samovar"))
    with feed.listening(heard.append):
        feed.report(LoadProgress("weights", 0.5, bytes_done=50, bytes_total=100))
        feed.report(LoadProgress("importing", 0.2))
        feed.report(LoadProgress("warmup", 0.9))
    assert heard == [
        LoadProgress("queued", 0.0),
        LoadProgress("weights", 0.5, 50, 100),
        LoadProgress("warmup", 0.9, 50, 100),
    ]


def test_a_listener_hears_where_the_load_is_and_nothing_after_it_left() -> None:
    early: list[LoadProgress] = []
    late: list[LoadProgress] = []
    feed = ProgressFeed(logging.getLogger("samovar"))
    with feed.listening(early.append):
        feed.report(LoadProgress("weights", 0.5))
    with feed.listening(late.append), feed.listening(None):
        feed.report(LoadProgress("ready", 1.0))
    assert [step.fraction for step in early] == [0.0, 0.5]
    assert [step.fraction for step in late] == [0.5, 1.0]
