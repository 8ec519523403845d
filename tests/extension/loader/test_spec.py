from __future__ import annotations

import pytest

from samovar_server.loader.spec import (
    Failed,
    Imported,
    Progress,
    ProtocolError,
    Ready,
    WorkerEvent,
    WorkerSpec,
    event_line,
    parse_event,
    parse_spec,
    spec_line,
)

SPEC = WorkerSpec(
    model_path="/models/ü", model_name="org/ü", device="cpu", dtype="float32", quantization="none",
    context_length=None, slots=16, max_queue=256, secret="s3cret",
)  # fmt: skip


def test_a_spec_survives_the_pipe_as_one_line() -> None:
    line = spec_line(SPEC)
    assert line.count(b"\n") == 1
    assert parse_spec(line, WorkerSpec) == SPEC


def test_a_spec_shows_no_secret() -> None:
    assert SPEC.secret not in repr(SPEC)


@pytest.mark.parametrize(
    "event",
    [
        Imported(1.9),
        Progress("weights", 0.5, bytes_done=1, bytes_total=2),
        Ready(8000, "cpu", "float32", 8192, 10**9, {"import": 1.0}),
        Failed("model_load_failed", "no such file\nreally"),
    ],
)
def test_an_event_survives_the_pipe_as_one_line(event: WorkerEvent) -> None:
    line = event_line(event)
    assert line.count(b"\n") == 1
    assert parse_event(line) == event


def test_fields_of_a_newer_worker_are_no_error() -> None:
    assert parse_event(b'{"event": "imported", "seconds": 1, "new": true}') == Imported(1)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"Downloading shards: 100%",
        b"[]",
        b'{"event": "unknown"}',
        b'{"event": "progress", "phase": "weights", "fraction": 1.5}',
        b'{"event": "progress", "phase": "lunch", "fraction": 0.5}',
        b'{"event": "ready", "port": 0, "device": "cpu", "dtype": "f", "context_length": 1, '
        b'"memory_bytes": 1, "load_seconds": {}}',
        b'{"event": "imported", "seconds": NaN}',
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_event(line)


def test_a_spec_that_lacks_a_field_is_refused_by_its_name() -> None:
    with pytest.raises(ProtocolError, match="model_path"):
        parse_spec(b"{}", WorkerSpec)
