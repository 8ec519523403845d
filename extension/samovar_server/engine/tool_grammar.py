"""The grammar of an answer that may or must call tools, in llguidance's dialect of Lark.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samovar_server.engine.tool_formats import ToolFormat


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A function's name and the schema of its arguments, ready for the grammar."""

    name: str
    schema: dict[str, Any]


def tool_grammar(
    tools: Sequence[CallableTool],
    form: ToolFormat,
    *,
    must_call: bool,
    parallel: bool,
    trigger_token: int | None,
    content: dict[str, Any] | None = None,
) -> str:
    """Calls of `tools`, or, unless one `must_call`, text; calls may follow on text.

    `trigger_token` is the trigger's id where it is a special token, which text cannot contain. `content`
    is a schema for the text; it needs a format with a trigger, and calls then stand alone.
    """
    trigger = json.dumps(form.trigger) if trigger_token is None else f"<[{trigger_token}]>"
    calls = f"{_literal(form.opening)} call {_further_calls(form, parallel)} {_literal(form.closing)}"
    alone = f"{trigger if form.trigger else ''} {calls}"
    rules = [f"call: {' | '.join(f'call_{index}' for index in range(len(tools)))}"]
    for index, tool in enumerate(tools):
        head = json.dumps(f"{form.head}{tool.name}{form.middle}")
        rules.append(f"call_{index}: {head} arguments_{index} {json.dumps(form.tail)}")
        rules.append(f"arguments_{index}: %json {json.dumps(tool.schema)}")
    if must_call:
        start = [f"start: {alone}"]
    elif content is not None:
        start = [f"start: content | {alone}", f"content: %json {json.dumps(content)}"]
    elif not form.trigger:
        # Text that does not begin as a call does, so that the two can be told apart at once.
        start = [f"start: TEXT | {alone}", r"TEXT: /([^{\s](.|\n)*)?/"]
    elif trigger_token is not None:
        start = [f"start: TEXT | TEXT {alone}", r"TEXT: /(.|\n)*/"]
    else:
        # A lazy lexeme ends with the first trigger, so text cannot run over one.
        start = [f"start: TEXT | lead {calls}", f"lead[lazy]: TEXT {trigger}", r"TEXT: /(.|\n)*/"]
    return "\n".join([*start, *rules]) + "\n"


def _further_calls(form: ToolFormat, parallel: bool) -> str:
    return f"({json.dumps(form.between)} call)*" if parallel and form.between is not None else ""


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""
