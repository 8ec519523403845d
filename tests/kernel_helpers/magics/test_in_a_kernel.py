"""The magic in a real kernel process: what a front end receives, and its interrupt button."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from tests.fakes.fake_server import SECONDS, FakeServer, Reply

Message = dict[str, Any]


class Kernel:
    """A kernel, and all messages that its front end has received."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self.received: list[Message] = []

    def until(self, arrived: Callable[[Message], bool]) -> Message:
        """The first message from now on for which `arrived` says so."""
        while True:
            message: Message = self.client.get_iopub_msg(timeout=SECONDS)
            self.received.append(message)
            if arrived(message):
                return message

    def run(self, code: str) -> Message:
        """Run `code` to its end; the reply to it."""
        return self.finish(self.client.execute(code))

    def finish(self, request: str) -> Message:
        self.until(lambda message: is_idle(message) and message["parent_header"].get("msg_id") == request)
        while True:
            reply: Message = self.client.get_shell_msg(timeout=SECONDS)
            if reply["parent_header"].get("msg_id") == request:
                return dict(reply["content"])

    def kinds(self) -> list[str]:
        return [message["msg_type"] for message in self.received]


def is_idle(message: Message) -> bool:
    return message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"


def shown(message: Message) -> str:
    return str(message["content"].get("data", {}).get("text/plain", ""))


@pytest.fixture
def kernel(fake_server: FakeServer) -> Iterator[Kernel]:
    manager, client = start_new_kernel(env=dict(os.environ))
    try:
        kernel = Kernel(manager, client)
        kernel.run("%load_ext samovar")
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_tokens_show_while_the_cell_runs_and_the_interrupt_button_ends_it(
    kernel: Kernel, fake_server: FakeServer
) -> None:
    fake_server.enqueue(Reply(hang_after=2))
    request = kernel.client.execute("%%generate\nSay hello")
    kernel.until(lambda message: shown(message) == "Hello world")
    assert not fake_server.disconnected.is_set()
    kernel.manager.interrupt_kernel()
    assert kernel.finish(request)["status"] == "error"  # so that "Run All" goes no further
    assert fake_server.disconnected.wait(SECONDS)
    assert "stream" not in kernel.kinds()
    (error,) = [message for message in kernel.received if message["msg_type"] == "error"]
    assert error["content"]["traceback"] == ["Interrupted. What had come is in _."]
    *_, summary = [message for message in kernel.received if message["msg_type"] == "display_data"]
    assert "interrupted" in shown(summary)
    assert "Hello" not in shown(summary)
    assert summary["content"]["metadata"]["samovar"]["parameters"]["seed"] >= 0
    kernel.received.clear()
    kernel.run("print(_.text, _.finish_reason)")
    (printed,) = [message for message in kernel.received if message["msg_type"] == "stream"]
    assert printed["content"]["text"] == "Hello world interrupted\n"


def test_an_error_is_one_line(kernel: Kernel) -> None:
    reply = kernel.run("%%generate --tempreature 1\nx")
    assert reply["status"] == "error"
    (error,) = [message for message in kernel.received if message["msg_type"] == "error"]
    assert error["content"]["traceback"] == [
        "BadOption: There is no option --tempreature. Did you mean --temperature?"
    ]
