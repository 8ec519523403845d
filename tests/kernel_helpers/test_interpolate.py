import random
import string

import pytest

from samovar.errors import BadPrompt
from samovar.interpolate import interpolate

VARIABLES = {
    "topic": "tea",
    "price": 3.14159,
    "rows": ["a", "b"],
    "people": {"ann": 41, "a:b": 1, "}": "brace"},
    "width": 8,
    "none": None,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("no field", "no field"),
        ("on {topic}.", "on tea."),
        ("{ topic }", "tea"),
        ("{topic}{topic}", "teatea"),
        ("{len(rows)} rows", "2 rows"),
        ("{price:.2f}", "3.14"),
        ("{topic!r}", "'tea'"),
        ("{topic!r:>7}", "  'tea'"),
        ("{topic:>{width}}", "     tea"),
        ("{people['ann']}", "41"),
        ('{people["a:b"]:03d}', "001"),
        ('{people["}"]}', "brace"),
        ("{ {'x': topic}['x'] }", "tea"),
        ("{'yes' if price > 3 else 'no'}", "yes"),
        ("{rows[0:1]}", "['a']"),
        ("{topic != 'coffee'}", "True"),
        ("{[row.upper() for row in rows]}", "['A', 'B']"),
        ("{none}", "None"),
        ("{{topic}}", "{topic}"),
        ("{{{topic}}}", "{tea}"),
        ('{{"name": "{topic}"}}', '{"name": "tea"}'),
        ("a }} b {{ c", "a } b { c"),
        ("{', '.join(rows)}\n{topic}", "a, b\ntea"),
    ],
)
def test_expressions(template: str, expected: str) -> None:
    assert interpolate(template, VARIABLES) == expected


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{toppic}", "The prompt has {toppic}, but there is no variable toppic. Did you mean topic?"),
        ("first\n{zzz}", "Line 2 of the prompt has {zzz}, but there is no variable zzz. Run the cell"),
        ("{rows[7]}", "{rows[7]}, which failed: IndexError: list index out of range"),
        ("{price:.2q}", "{price}, which failed: ValueError"),
        ("{topic:>{wide}}", "A format specification has {wide}, but there is no variable wide."),
        (
            '{"name": "x", "age": 3}',
            '{"name": "x", "age": 3}, which is not a Python expression of a variable',
        ),
        ("{}", "{}, which is not a Python expression"),
        ("{1}", "{1}, which is not a Python expression"),
        ("int f() { return 1; }", "{ return 1; }, which is not"),
        ("{topic", "{topic, which has no closing brace"),
        ("{ don't }", "{ don't }, which is not"),
        ("a } b", "The prompt has a single }. Write }} for the character itself."),
        ("\\frac{a}{b}", "{a}, but there is no variable a."),
    ],
)
def test_what_cannot_be_evaluated_is_named(template: str, told: str) -> None:
    with pytest.raises(BadPrompt) as error:
        interpolate(template, VARIABLES)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_braces_of_code_get_the_way_out() -> None:
    with pytest.raises(BadPrompt, match=r"double its braces: \{\{ and \}\}"):
        interpolate('{"a": 1}', {})


def test_the_variables_stay_as_they_are() -> None:
    variables = {"x": 1}
    assert interpolate("{(y := x + 1)}", variables) == "2"
    assert variables == {"x": 1}


def test_text_full_of_braces_is_refused_quickly() -> None:
    with pytest.raises(BadPrompt):
        interpolate("{ a b " + "} " * 100_000, {})


@pytest.mark.parametrize("seed", range(50))
def test_doubling_the_braces_gives_any_text_back(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choices(string.printable + "{}{}{}{}é\u2028", k=200))
    assert interpolate(text.replace("{", "{{").replace("}", "}}"), {}) == text


@pytest.mark.parametrize("seed", range(50))
def test_equals_an_f_string(seed: int) -> None:
    draw = random.Random(seed)
    pieces = [
        "{topic}",
        "{{",
        "}}",
        "{price:.3f}",
        "{rows!r}",
        "{width:>{width}}",
        "{len(rows) + 1}",
        " a'",
        ':"',
    ]
    template = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
    expected = eval("f'''" + template.replace("'", "\\'") + "'''", dict(VARIABLES))  # noqa: S307 - what it is to equal
    assert interpolate(template, VARIABLES) == expected


@pytest.mark.parametrize("seed", range(200))
def test_any_text_gives_text_or_the_one_error(seed: int) -> None:
    draw = random.Random(seed)
    template = "".join(
        draw.choices(["{", "}", "topic", ":", "!r", " ", "'", '"', "(", ")", "1", "\n", "\\", ","], k=30)
    )
    told = ""
    try:
        interpolate(template, VARIABLES)
    except BadPrompt as error:
        told = str(error)
    assert "\n" not in told
