"""The options that say what and how to generate, the same for `%%generate` and `samovar run`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from samovar.options import integer, number, one_of, token_bias, with_escapes
from samovar.request import CHOICES


class _Bias(argparse.Action):
    """Gathers TOKEN=BIAS into a mapping."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, option_string: object = None
    ) -> None:
        assert isinstance(values, tuple)
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), values[0]: values[1]})


SAMPLING: Mapping[str, Mapping[str, Any]] = {
    "--temperature": {
        "type": number,
        "metavar": "T",
        "help": "0 always takes the likeliest token; 1 is the default",
    },
    "--top-p": {
        "type": number,
        "metavar": "P",
        "help": "draw from the likeliest tokens that together have this share",
    },
    "--top-k": {"type": integer, "metavar": "K", "help": "draw from the K likeliest tokens; 0: all"},
    "--min-p": {
        "type": number,
        "metavar": "P",
        "help": "draw from tokens at least P times as likely as the likeliest",
    },
    "--presence-penalty": {
        "type": number,
        "metavar": "X",
        "help": "-2 to 2; above 0 against tokens that came already",
    },
    "--frequency-penalty": {
        "type": number,
        "metavar": "X",
        "help": "-2 to 2; the same, by how often they came",
    },
    "--repetition-penalty": {
        "type": number,
        "metavar": "X",
        "help": "above 1 against tokens of prompt and answer; 1: none",
    },
    "--logit-bias": {
        "action": _Bias,
        "type": token_bias,
        "metavar": "TOKEN=BIAS",
        "help": "-100 to 100, added to the logit of the token with this id; may be given again",
    },
    "--seed": {"type": integer, "metavar": "N", "help": "the same seed draws the same text again"},
    "--n": {"type": integer, "metavar": "N", "help": "this many answers to the same prompt"},
}

LENGTH: Mapping[str, Mapping[str, Any]] = {
    "--max-tokens": {"type": integer, "metavar": "N", "help": "most tokens to generate"},
    "--min-tokens": {"type": integer, "metavar": "N", "help": "fewest tokens before the model may end"},
    "--stop": {
        "type": with_escapes,
        "action": "append",
        "default": [],
        "metavar": "TEXT",
        "help": r"end before this text; up to four times; \n and \t are understood",
    },
    "--stop-token-ids": {
        "type": integer,
        "nargs": "+",
        "default": [],
        "metavar": "ID",
        "help": "end at a token with one of these ids",
    },
    "--ignore-eos": {
        "action": "store_true",
        "default": None,
        "help": "go on where the model would end, up to --max-tokens",
    },
    "--exact": {
        "action": "store_true",
        "default": None,
        "help": "refuse where the answer's bits could depend on other requests",
    },
    "--logprobs": {
        "type": integer,
        "metavar": "N",
        "help": "note each token's log-probability, and the N (0 to 20) likeliest in its place",
    },
}


def _choice(field: str, what: str) -> Mapping[str, Any]:
    known = CHOICES[field]
    return {"type": one_of(known), "help": f"{what}: {', '.join(known)}"}


LOADING: Mapping[str, Mapping[str, Any]] = {
    "--backend": _choice("backend", "engine"),
    "--device": {"help": "auto, cpu, cuda or cuda:N"},
    "--dtype": _choice("dtype", "numbers"),
    "--quantization": _choice("quantization", "weights"),
    "--context-length": {"type": integer, "help": "context window in tokens"},
    "--n-ctx": {"type": integer, "help": "the same, in llama.cpp's words"},
    "--max-model-len": {"type": integer, "help": "the same, in vLLM's words"},
    "--n-gpu-layers": {"type": integer, "help": "llama.cpp: layers on the GPU; -1: all"},
    "--gpu-memory-utilization": {"type": number, "help": "vLLM: share of the GPU's memory, 0.1 to 1"},
    "--ttl": {"type": number, "help": "how many seconds the unused model then stays in memory; 0: for ever"},
}

METAVARS: Mapping[Any, str] = {integer: "N", number: "X"}


def add_generation_options(parser: argparse.ArgumentParser, *, several_models: bool = False) -> None:
    """The options that say what and how to generate; with `several_models`, --model may be given again."""
    again: dict[str, Any] = {"action": "append", "default": [], "dest": "models"} if several_models else {}
    more = "; given again, models answer side by side" if several_models else ""
    parser.add_argument(
        "-m", "--model", metavar="NAME", help=f"model or alias; the server's default otherwise{more}", **again
    )
    parser.add_argument("--system", metavar="TEXT", help="system text: how the model is to behave")
    _add(parser.add_argument_group("sampling"), SAMPLING)
    _add(parser.add_argument_group("length and output"), LENGTH)
    add_load_options(parser)


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how a model is held in memory."""
    _add(parser.add_argument_group("how the model is loaded"), LOADING)


def _add(group: Any, options: Mapping[str, Mapping[str, Any]]) -> None:
    for name, told in options.items():
        metavar = {} if "action" in told else {"metavar": METAVARS.get(told.get("type"), "NAME")}
        group.add_argument(name, **{**metavar, **told})


def option_values(option: str) -> Sequence[str]:
    """The few values that `option` has; none where it takes any."""
    return CHOICES.get(option.strip("-"), ())
