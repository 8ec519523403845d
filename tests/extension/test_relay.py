"""The relay alone, against a worker in the test's own process. The routes' tests cover it in its place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tornado.iostream import StreamClosedError

from samovar_server.errors import ModelCrashed
from samovar_server.loopback import AHEAD_BYTES, READ_BYTES
from samovar_server.relay import Relay
from tests.fakes.served import served
from tests.server_handlers.fakes import MODEL, SECRET, FakeLease, FakeWorker

PATH = "/v1/chat/completions"


@pytest.fixture
def worker(jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[FakeWorker]:
    with served(jp_asyncio_loop, FakeWorker) as worker:
        yield worker


@pytest.fixture
def lease(worker: FakeWorker) -> FakeLease:
    return FakeLease(worker.url, SECRET, MODEL)


@pytest.fixture
def relay(jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[Relay]:
    relay = Relay()
    yield relay
    jp_asyncio_loop.run_until_complete(relay.close())


async def test_no_proxy_of_the_environment_sees_a_request(
    lease: FakeLease, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    relay = Relay()
    worker.say(b"{}", None)
    async with relay.post(lease, PATH, b"{}") as answer:
        assert (answer.status, await answer.body()) == (200, b"{}")
    await relay.close()


async def test_bytes_pass_as_they_come(relay: Relay, lease: FakeLease, worker: FakeWorker) -> None:
    worker.headers = {"Retry-After": "3"}
    worker.say(b"\x00one")
    async with relay.post(lease, PATH, b'{"a": 1}') as answer:
        assert (answer.header("retry-after"), answer.header("x-other")) == ("3", None)
        chunks = answer.chunks()
        assert await anext(chunks) == b"\x00one"
        worker.say(b"two\xff", None)
        assert [chunk async for chunk in chunks] == [b"two\xff"]
    (request,) = worker.requests
    assert request.body == b'{"a": 1}'
    assert request.headers["Authorization"] == f"Bearer {SECRET}"


async def test_a_consumer_that_is_cancelled_ends_the_request(
    relay: Relay, lease: FakeLease, worker: FakeWorker
) -> None:
    worker.say(b"one")
    reading = asyncio.Event()

    async def consume() -> None:
        async with relay.post(lease, PATH, b"{}") as answer:
            async for _ in answer.chunks():
                reading.set()

    consumer = asyncio.create_task(consume())
    await reading.wait()
    consumer.cancel()
    await asyncio.wait_for(worker.left.wait(), 10)
    assert consumer.cancelled()


async def test_a_consumer_that_leaves_early_ends_the_request(
    relay: Relay, lease: FakeLease, worker: FakeWorker
) -> None:
    worker.say(b"one")
    async with relay.post(lease, PATH, b"{}"):
        pass
    await asyncio.wait_for(worker.left.wait(), 10)


@pytest.mark.parametrize("before", [[], [b"half"]], ids=["at once", "in the body"])
async def test_a_broken_connection_is_what_the_lease_says(
    relay: Relay, lease: FakeLease, worker: FakeWorker, before: list[bytes]
) -> None:
    worker.say(*before, ConnectionError)
    with pytest.raises(ModelCrashed, match="org/tiny"):
        async with relay.post(lease, PATH, b"{}") as answer:
            await answer.body()


async def test_a_client_that_breaks_off_is_not_the_workers_fault(
    relay: Relay, lease: FakeLease, worker: FakeWorker
) -> None:
    worker.say(b"one")
    with pytest.raises(StreamClosedError):  # an OSError, as those of a broken worker are
        async with relay.post(lease, PATH, b"{}"):
            raise StreamClosedError
    await asyncio.wait_for(worker.left.wait(), 10)


async def test_a_worker_that_nobody_hears_is_what_the_lease_says(relay: Relay) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        lease = FakeLease(f"http://127.0.0.1:{nobody.getsockname()[1]}", SECRET, MODEL)
        with pytest.raises(ModelCrashed, match="org/tiny"):
            async with relay.post(lease, PATH, b"{}"):
                pass


async def test_many_requests_wait_side_by_side(relay: Relay, lease: FakeLease, worker: FakeWorker) -> None:
    async def ask() -> bytes:
        async with relay.post(lease, PATH, b"{}") as answer:
            return await answer.body()

    asking = [asyncio.create_task(ask()) for _ in range(120)]
    async with asyncio.timeout(30):
        for _ in asking:
            await worker.arrivals.acquire()
    worker.say(*[None] * len(asking))
    assert b"".join(await asyncio.gather(*asking)) == b""


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def sending(*answer: bytes) -> AsyncIterator[FakeLease]:
    """A worker that answers with exactly these bytes, and then closes the connection."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.writelines(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(send, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield FakeLease(f"http://127.0.0.1:{port}", SECRET, MODEL)


async def test_what_has_arrived_together_is_passed_together(relay: Relay) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n"
    async with (
        sending(interim, HEAD + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") as lease,
        relay.post(lease, PATH, b"{}") as answer,
    ):
        assert answer.status == 200
        assert [chunk async for chunk in answer.chunks()] == [b"onetwo"]


async def test_a_slow_reader_holds_the_worker_back(relay: Relay) -> None:
    kilobyte = bytes(range(256)) * 4
    body = kilobyte * 4096
    pieces = []
    async with (
        sending(HEAD, *[b"400\r\n" + kilobyte + b"\r\n"] * 4096, b"0\r\n\r\n") as lease,
        relay.post(lease, PATH, b"{}") as answer,
    ):
        async for piece in answer.chunks():
            pieces.append(piece)
            for _ in range(50):  # turns of the loop, in which the socket could be read fifty times
                await asyncio.sleep(0)
    assert b"".join(pieces) == body
    assert AHEAD_BYTES < max(map(len, pieces)) <= AHEAD_BYTES + READ_BYTES


@pytest.mark.parametrize(
    "end", [b"", b"1\r\n", b"no length\r\n"], ids=["in between", "in a chunk", "malformed"]
)
async def test_what_came_before_the_break_is_passed(relay: Relay, end: bytes) -> None:
    async with sending(HEAD + b"3\r\none\r\n" + end) as lease:
        passed: list[bytes] = []

        async def read() -> None:
            async with relay.post(lease, PATH, b"{}") as answer:
                async for chunk in answer.chunks():
                    passed.append(chunk)  # noqa: PERF401  # it ends with an exception

        with pytest.raises(ModelCrashed, match="org/tiny"):
            await read()
        assert passed == [b"one"]


async def test_a_header_cannot_bring_further_lines(
    relay: Relay, lease: FakeLease, worker: FakeWorker
) -> None:
    lease.headers["X-Place"] = "here\r\nAuthorization: Bearer other"
    with pytest.raises(ValueError, match="more than one line"):
        async with relay.post(lease, PATH, b"{}"):
            pass
    assert not worker.requests
