"""What a chat request asks of the form of its answer, as a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samovar_server.engine.grammar import (
    GrammarMatcher,
    Grammars,
    check_schema,
    json_grammar,
    lark_grammar,
    schema_for_grammar,
)
from samovar_server.engine.tool_formats import ToolFormat, choose_format
from samovar_server.engine.tool_grammar import CallableTool, tool_grammar
from samovar_server.engine.tool_parser import ToolParser
from samovar_server.engine.tool_prompt import template_of
from samovar_server.errors import InvalidRequest
from samovar_server.protocol.chat import ChatRequest
from samovar_server.protocol.response_format import ResponseFormat

SCHEMA_PARAM = "response_format.json_schema.schema"


@dataclass(frozen=True, slots=True)
class Constraint:
    """One matcher for each choice, and how to read tool calls in the text, if any may come.

    `show_special`: calls are announced by a special token, which has to stay in the text.
    """

    matchers: Sequence[GrammarMatcher] = ()
    form: ToolFormat | None = None
    calls_or_content: bool = False
    show_special: bool = False

    def parser(self) -> ToolParser | None:
        """A reader of one choice's text; None where it is content and nothing else."""
        return None if self.form is None else ToolParser(self.form, either=self.calls_or_content)


def constrain(request: ChatRequest, grammars: Grammars) -> Constraint:
    """What `request` asks for. InvalidRequest names the schema that cannot be held to, and says why."""
    content = _content_schema(request.response_format)
    if request.callable_tools():
        return _with_tools(request, grammars, content)
    if content is None:
        return Constraint()
    schema, lenient = content
    return Constraint(grammars.matchers(json_grammar(schema, lenient=lenient), SCHEMA_PARAM, request.n))


def _with_tools(
    request: ChatRequest, grammars: Grammars, content: tuple[dict[str, Any], bool] | None
) -> Constraint:
    form = choose_format(template_of(grammars.tokenizer))
    if content is not None:
        check_schema(content[0], SCHEMA_PARAM, lenient=content[1])
        if not form.trigger and not request.must_call:
            raise InvalidRequest(
                "response_format: this model's tool calls are JSON objects themselves, so it cannot be told "
                "apart from them. Leave out tools or response_format.",
                param="response_format",
            )
    trigger = _special_token(grammars.tokenizer, form.trigger)
    grammar = tool_grammar(
        _checked_tools(request),
        form,
        must_call=request.must_call,
        parallel=request.parallel_tool_calls and request.tool_choice.type != "function",
        trigger_token=trigger,
        content=None if content is None else schema_for_grammar(content[0], lenient=content[1]),
    )
    matchers = grammars.matchers(lark_grammar(grammar), "tools", request.n)
    return Constraint(matchers, form, content is not None, trigger is not None)


def _content_schema(response_format: ResponseFormat) -> tuple[dict[str, Any], bool] | None:
    """The schema of the content and whether it is lenient; None for any text."""
    if response_format.type == "text":
        return None
    if response_format.json_schema is None:
        return {"type": "object"}, False
    return response_format.json_schema.schema_, response_format.json_schema.strict is False


def _checked_tools(request: ChatRequest) -> list[CallableTool]:
    callable_tools = request.callable_tools()
    tools: list[CallableTool] = []
    for index, tool in enumerate(request.tools):
        if tool not in callable_tools:
            continue
        schema, lenient = tool.function.arguments_schema(), tool.function.strict is False
        check_schema(schema, f"tools.{index}.function.parameters", lenient=lenient)
        tools.append(CallableTool(tool.function.name, schema_for_grammar(schema, lenient=lenient)))
    return tools


def _special_token(tokenizer: Any, text: str) -> int | None:
    """The id of the special token that reads `text`."""
    special = (token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special)
    return next((token for token in special if tokenizer.added_tokens_decoder[token].content == text), None)
