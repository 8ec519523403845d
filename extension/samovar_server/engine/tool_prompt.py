"""Tools and their calls put into plain messages, for models whose chat template knows no tools (or writes
their calls in a way that this engine does not read).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from samovar_server.engine.text import render_chat
from samovar_server.engine.tool_formats import ToolFormat, choose_format
from samovar_server.errors import InvalidRequest

# Hermes' words: https://github.com/NousResearch/Hermes-Function-Calling
_INSTRUCTIONS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def template_of(tokenizer: Any) -> str | None:
    """The chat template for conversations with tools; None where there is none at all."""
    if not tokenizer.chat_template:
        return None
    template: str = tokenizer.get_chat_template(tools=[{}])
    return template


def render(tokenizer: Any, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
    """The prompt's token ids, as `render_chat`, with `tools` and calls in the way the model knows them."""
    form = choose_format(template_of(tokenizer))
    if form.native:
        return render_chat(tokenizer, messages, list(tools) or None)
    plain = as_plain_messages(messages, form)
    if not tools:
        return render_chat(tokenizer, plain)
    instructions = _INSTRUCTIONS.format(tools="\n".join(json.dumps(tool) for tool in tools))
    if plain[0]["role"] == "system":
        system = plain[0] | {"content": f"{plain[0]['content']}\n\n{instructions}"}
        return render_chat(tokenizer, [system, *plain[1:]])
    try:
        return render_chat(tokenizer, [{"role": "system", "content": instructions}, *plain])
    except InvalidRequest:  # some templates (Gemma 2's) have no system message
        first = plain[0] | {"content": f"{instructions}\n\n{plain[0]['content']}"}
        return render_chat(tokenizer, [first, *plain[1:]])


def as_plain_messages(messages: Sequence[dict[str, Any]], form: ToolFormat) -> list[dict[str, Any]]:
    """`messages` with calls as text, and their results in the user's name."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            _add_result(plain, f"<tool_response>\n{message['content']}\n</tool_response>")
        elif message.get("tool_calls"):
            calls = _calls(message["tool_calls"], form)
            content = "\n".join(text for text in (message["content"], calls) if text)
            plain.append({"role": "assistant", "content": content})
        else:
            plain.append(message)
    return plain


def _calls(calls: Sequence[dict[str, Any]], form: ToolFormat) -> str:
    texts = [
        f"{form.head}{call['function']['name']}{form.middle}"
        f"{json.dumps(call['function']['arguments'], ensure_ascii=False)}{form.tail}"
        for call in calls
    ]
    return f"{form.trigger}{form.opening}{(form.between or '').join(texts)}{form.closing}"


def _add_result(messages: list[dict[str, Any]], text: str) -> None:
    """Results that follow each other share a message: many templates want user and assistant in turn."""
    if (
        messages
        and messages[-1].get("role") == "user"
        and messages[-1]["content"].endswith("</tool_response>")
    ):
        messages[-1] = messages[-1] | {"content": f"{messages[-1]['content']}\n{text}"}
    else:
        messages.append({"role": "user", "content": text})
