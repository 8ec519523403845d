"""Cells with `%%generate`, run as a front end runs them."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from samovar.answers import Answers
from samovar.errors import SamovarError
from samovar.result import Generation
from tests.fakes.fake_server import FakeServer


def run(shell: InteractiveShell, cell: str, line: str = "") -> Generation | Answers:
    """Run a cell; the error that it ended with is raised."""
    result = shell.run_cell(f"%%generate {line}\n{cell}", store_history=True)
    result.raise_error()
    assert isinstance(result.result, Generation | Answers)
    return result.result


def generate(shell: InteractiveShell, cell: str, line: str = "") -> Generation:
    """Run a cell with one model."""
    result = run(shell, cell, line)
    assert isinstance(result, Generation)
    return result


def refused(shell: InteractiveShell, cell: str, line: str = "") -> str:
    with pytest.raises(SamovarError) as error:
        generate(shell, cell, line)
    assert "\n" not in str(error.value)
    return str(error.value)


def messages(server: FakeServer) -> list[list[dict[str, str]]]:
    return [body["messages"] for body in server.asked_at("/v1/chat/completions")]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
