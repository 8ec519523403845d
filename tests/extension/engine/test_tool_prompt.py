"""Tools in the prompt: by the model's template where it knows them, in words where it does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from samovar_server.engine.tool_prompt import render, template_of
from samovar_server.errors import InvalidRequest
from samovar_server.protocol.chat import Message
from samovar_server.protocol.tools import FunctionDefinition, Tool
from tests.extension.engine.tokenizers import CHAT_TEMPLATE, byte_level

TOOL = Tool(type="function", function=FunctionDefinition(name="get_time", description="The time"))

NATIVE = (
    "{{ tools | length }} tools{% for m in messages %} {{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} {{ c.function.arguments.zone }}"
    '"arguments"{% endfor %}{% endfor %}'
)

CALL = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": '{"zone": "CET"}'}}


def messages(*raw: dict[str, Any]) -> list[dict[str, Any]]:
    return [Message.model_validate(message).for_template() for message in raw]


def text(template: str, conversation: list[dict[str, Any]], *, tools: bool = True) -> str:
    tokenizer = byte_level(template)
    ids = render(tokenizer, conversation, [TOOL.for_template()] if tools else [])
    shown: str = tokenizer.decode(ids)
    return shown


def test_a_template_that_knows_tools_gets_them_and_the_arguments_decoded() -> None:
    conversation = messages(
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    )
    assert text(NATIVE, conversation) == (
        '1 tools user:When? assistant:<tool_call>get_time CET"arguments" tool:noon'
    )


def test_other_templates_get_tools_in_the_system_message_and_calls_as_text() -> None:
    conversation = messages(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "tool", "tool_call_id": "call_1", "content": "midday"},
    )
    shown = text(CHAT_TEMPLATE, conversation)
    system, user, assistant, results, ours = shown.split("<|im_start|>")[1:]
    assert system.startswith("system\nBe brief.\n\n# Tools\n")
    (line,) = [line for line in system.splitlines() if line.startswith('{"type"')]
    assert json.loads(line)["function"]["name"] == "get_time"
    assert user == "user\nWhen?<|im_end|>\n"
    call = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n</tool_call>'
    assert assistant == f"assistant\nLet me see.\n{call}\n{call}<|im_end|>\n"
    assert results == (
        "user\n<tool_response>\nnoon\n</tool_response>\n<tool_response>\nmidday\n</tool_response><|im_end|>\n"
    )
    assert ours == "assistant\n"


def test_without_tools_nothing_is_added() -> None:
    plain = messages({"role": "user", "content": "When?"})
    shown = text(CHAT_TEMPLATE, plain, tools=False)
    assert shown == "<|im_start|>user\nWhen?<|im_end|>\n<|im_start|>assistant\n"
    assert text(CHAT_TEMPLATE, plain).startswith("<|im_start|>system\n# Tools\n")


def test_a_template_without_a_system_message_gets_the_tools_from_the_user() -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    )
    shown = text(template, messages({"role": "user", "content": "When?"}))
    assert shown.startswith("<|im_start|>user\n# Tools\n")
    assert "</tool_call>\n\nWhen?<|im_end|>" in shown
    with pytest.raises(InvalidRequest, match="no system"):
        text(template, messages({"role": "system", "content": "Be brief."}))


def test_of_several_templates_the_one_for_tools_counts() -> None:
    tokenizer = byte_level("unused")
    tokenizer.chat_template = {"default": "plain", "tool_use": NATIVE}
    assert template_of(tokenizer) == NATIVE
    tokenizer.chat_template = None
    assert template_of(tokenizer) is None
