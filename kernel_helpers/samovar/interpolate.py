"""`{expression}` in a prompt, as in an f-string, without one.

`{topic}`, `{len(rows)}`, `{price:.2f}` and `{name!r}` are evaluated among the notebook's variables;
`{{` and `}}` are braces. What cannot be evaluated is an error that names it: a prompt that goes to a
model half filled in would be worse.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import CodeType
from typing import Any

from samovar.errors import BadPrompt

MAX_EXPRESSION = 2000
"""Characters. What is longer between two braces is text, not an expression."""

LITERALLY = "If it is meant as it stands, as in JSON or code, double its braces: {{ and }}."

_BRACE = re.compile(r"[{}]")
_CONVERSION = re.compile(r"!\s*([rsa])\s*$")
_CONVERSIONS: Mapping[str, Callable[[object], str]] = {"r": repr, "s": str, "a": ascii}


@dataclass(frozen=True, slots=True)
class _Field:
    """An expression, what turns its value into text first (or None), and the format specification."""

    source: str
    code: CodeType
    names: frozenset[str]
    conversion: str | None
    spec: str


def interpolate(template: str, namespace: Mapping[str, Any], *, what: str = "the prompt") -> str:
    """`template` with its expressions replaced by their values; BadPrompt names the one that has none.

    `what` is what the template is to the user, for the message.
    """
    return "".join(_parts(template, dict(namespace), what))


def _parts(template: str, namespace: dict[str, Any], what: str) -> Iterator[str]:
    position = 0
    while found := _BRACE.search(template, position):
        brace = found.start()
        yield template[position:brace]
        character = template[brace]
        if template.startswith(character, brace + 1):
            yield character
            position = brace + 2
        elif character == "}":
            raise BadPrompt(
                f"{_where(template, brace, what)} a single }}. Write }}}} for the character itself."
            )
        else:
            field, position = _field(template, brace, what)
            yield _value(field, namespace, _where(template, brace, what))
    yield template[position:]


def _field(template: str, opening: int, what: str) -> tuple[_Field, int]:
    """The field that begins at `opening`, and the position behind it.

    The first closing brace that makes the text between the two a Python expression ends it, so that
    an expression may hold braces and strings of its own.
    """
    closing = opening
    while (closing := template.find("}", closing + 1, opening + MAX_EXPRESSION)) != -1:
        field = _parse(template[opening + 1 : closing])
        if field is not None:
            if not field.names:
                break
            return field, closing + 1
    raise _not_an_expression(template, opening, what)


def _parse(text: str) -> _Field | None:
    """`text` as expression[!conversion][:specification]; None when it is not that."""
    for colon in (len(text), *(match.start() for match in re.finditer(":", text))):
        source, spec = text[:colon], text[colon + 1 :]
        conversion = _CONVERSION.search(source)
        if conversion:
            source = source[: conversion.start()]
        compiled = _compile(source.strip())
        if compiled is not None and spec.count("{") == spec.count("}"):
            return _Field(source.strip(), *compiled, conversion[1] if conversion else None, spec)
    return None


def _compile(source: str) -> tuple[CodeType, frozenset[str]] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text that only looks like code
            tree = ast.parse(source, "<prompt>", "eval")
            code = compile(tree, "<prompt>", "eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return code, frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _value(field: _Field, namespace: dict[str, Any], where: str) -> str:
    shown = "{" + _short(field.source) + "}"
    try:
        value = eval(field.code, namespace)  # noqa: S307 - the user's own code in the user's own kernel
        if field.conversion:
            value = _CONVERSIONS[field.conversion](value)
        return format(value, "".join(_parts(field.spec, namespace, "a format specification")))
    except NameError as error:
        name = error.name or str(error)
        near = get_close_matches(name, [known for known in namespace if not known.startswith("_")], n=1)
        hint = f" Did you mean {near[0]}?" if near else " Run the cell that defines it first."
        raise BadPrompt(f"{where} {shown}, but there is no variable {name}.{hint} {LITERALLY}") from None
    except BadPrompt:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the user's expression raises
        raise BadPrompt(
            f"{where} {shown}, which failed: {type(error).__name__}: {_short(str(error), 200)}. Try it in a "
            f"cell of its own. {LITERALLY}"
        ) from None


def _not_an_expression(template: str, opening: int, what: str) -> BadPrompt:
    closing = template.find("}", opening)
    text = template[opening : closing + 1] if closing != -1 else template[opening:]
    shown = _short(text)
    reason = (
        "which has no closing brace" if closing == -1 else "which is not a Python expression of a variable"
    )
    return BadPrompt(f"{_where(template, opening, what)} {shown}, {reason}. {LITERALLY}")


def _where(template: str, position: int, what: str) -> str:
    line = template.count("\n", 0, position) + 1
    place = f"Line {line} of {what}" if "\n" in template.strip("\n") else what[:1].upper() + what[1:]
    return f"{place} has"


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
