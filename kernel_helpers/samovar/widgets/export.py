"""A conversation as a notebook, one cell for each question, its answer below. Free of ipywidgets."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samovar.widgets.dialogue import Parameters, Turn

CHAT = "exported"
"""The name of the conversation in the exported notebook's `%%generate --chat`."""


def write_notebook(path: Path, turns: Sequence[Turn], system: str, parameters: Parameters) -> None:
    """Write the conversation to `path`; FileExistsError where there is a file."""
    with path.open("x", encoding="utf-8") as file:
        json.dump(as_notebook(turns, system, parameters), file, indent=1, ensure_ascii=False)
        file.write("\n")


def as_notebook(turns: Sequence[Turn], system: str, parameters: Parameters) -> dict[str, Any]:
    """The notebook: running it holds the same conversation again."""
    cells = [_code("%load_ext samovar")]
    for turn in turns:
        if turn.role == "assistant":
            cells[-1]["outputs"] = [_output(turn.text)]
            continue
        first = len(cells) == 1
        line = _options(parameters) + (_option("--system", system or None) if first else [])
        # --literal: braces in a question are no expressions of Python.
        cells.append(_code(f"%%generate {shlex.join(['--chat', CHAT, '--literal', *line])}\n{turn.text}"))
    return {
        "cells": cells,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _options(parameters: Parameters) -> list[str]:
    return [
        *_option("--model", parameters.model),
        *_option("--temperature", parameters.temperature),
        *_option("--top-p", parameters.top_p),
        *_option("--max-tokens", parameters.max_tokens),
        *_option("--seed", parameters.seed),
    ]


def _option(name: str, value: str | float | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _code(source: str) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex[:8],
        "cell_type": "code",
        "source": source,
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }


def _output(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}
