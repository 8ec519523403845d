"""What can be written behind `%%generate`, and what of it is refused."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from samovar.errors import BadOption
from samovar.generation_options import add_generation_options
from samovar.interpolate import interpolate
from samovar.options import OptionParser, near_hint

HELP = """\
Generate text with a language model, streamed into the cell:

    %%generate --temperature 0.7
    Explain {topic} in one sentence.

The cell is the prompt. {expressions} in it, and in the options, are evaluated among your
variables, as in an f-string; {{ and }} are braces. The result is `_`, and has .text, .usage,
.timing, .finish_reason, .model, .logprobs, .json and .request; samovar.chat(**_.request) asks
the same again. Interrupting the cell stops the model and keeps what has come so far."""


def make_parser() -> OptionParser:
    """The options of `%%generate`."""
    parser = OptionParser("%%generate", description=HELP)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)  # there are none: see `check`
    add_generation_options(parser, several_models=True)
    parser.add_argument(
        "--json",
        dest="schema",
        metavar="NAME",
        help="hold the answer to a JSON schema: a variable with a dict or a pydantic class",
    )
    parser.add_argument(
        "--chat",
        metavar="NAME",
        help="continue the conversation of this name; a broken-off answer is not kept in it",
    )
    parser.add_argument(
        "--new", action="store_true", help="with --chat: forget what was said under that name"
    )
    parser.add_argument("--out", metavar="NAME", help="variable for the result")
    parser.add_argument("--literal", action="store_true", help="send the cell as it stands, braces and all")
    rendering = parser.add_mutually_exclusive_group()
    rendering.add_argument("--markdown", action="store_true", help="render the answer as Markdown")
    rendering.add_argument(
        "--raw", action="store_true", help="print the answer like any other output of a cell"
    )
    return parser


def check(options: Namespace) -> None:
    """Refuse what the parser cannot see."""
    if options.words:
        word = options.words[0]
        raise BadOption(
            f"What is {word!r} here? The prompt goes below the line; a model is named by --model {word}."
        )
    if options.new and options.chat is None:
        raise BadOption("--new begins a conversation anew and needs --chat NAME.")
    if options.n is not None and options.n < 1:
        raise BadOption(f"--n: {options.n} answers cannot be given; 1 is the least.")
    if options.chat is not None and (len(options.models) > 1 or (options.n or 1) > 1):
        raise BadOption("--chat goes on with one answer of one model: leave --n and the other --model out.")
    if options.out is not None and (not options.out.isidentifier() or iskeyword(options.out)):
        raise BadOption(f"--out: {options.out!r} cannot be the name of a variable.")


def fill_in(options: Namespace, variables: Mapping[str, Any]) -> None:
    """Evaluate the {expressions} in the options."""
    for name in ("system", "chat"):
        text = getattr(options, name)
        if text is not None:
            setattr(options, name, interpolate(text, variables, what=f"--{name}"))
    options.models = [interpolate(text, variables, what="--model") for text in options.models]
    options.stop = [interpolate(text, variables, what="--stop") for text in options.stop]


def look_up_schema(options: Namespace, variables: Mapping[str, Any]) -> None:
    """Put the variable that --json names in its place."""
    name = options.schema
    if name is None:
        return
    if name not in variables:
        schemas = [known for known, value in variables.items() if is_schema(value)]
        hint = near_hint(name, schemas) or " Run the cell that defines it first."
        raise BadOption(f"--json: there is no variable {name}.{hint}")
    if not is_schema(variables[name]):
        kind = type(variables[name]).__name__
        raise BadOption(f"--json: {name} is a {kind}; a JSON schema is a dict or a pydantic class.")
    options.schema = variables[name]


def is_schema(value: object) -> bool:
    """Whether `value` can say what an answer has to be."""
    return isinstance(value, dict) or (isinstance(value, type) and hasattr(value, "model_json_schema"))
