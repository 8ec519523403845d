"""How the answers of one column are made, written as the options of `%%generate`. Free of ipywidgets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samovar.errors import BadOption
from samovar.generation_options import add_generation_options
from samovar.options import OptionParser
from samovar.request import Request, as_messages, make_request

NOT_HERE = {
    "model": "Models are named in the field above, so that each answers under every setting",
    "n": "One place shows one answer; write the setting again with another --seed",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """`line` as it was written, and the `parameters` of a request that it means."""

    line: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None

    @property
    def model(self) -> str | None:
        """The model that answers; None for the default one."""
        return self.parameters.get("model")

    def request(self, prompt: str) -> Request:
        """The request for an answer to `prompt`; BadOption where a parameter has a wrong value."""
        return make_request(as_messages(prompt, self.system), self.parameters)


def parse_setting(line: str, model: str | None = None, max_tokens: int | None = None) -> Setting:
    """The setting that `line` describes, for `model`; BadOption names the nearest right option."""
    parser = OptionParser("%%generate", add_help=False)
    add_generation_options(parser)
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise BadOption(f"{line.strip()}: {error}.") from None
    told = {name: value for name, value in vars(parser.parse(words)).items() if value not in (None, [])}
    for name, why in NOT_HERE.items():
        if name in told:
            raise BadOption(f"--{name}: {why}.")
    system = told.pop("system", None)
    given = {"model": model, "max_tokens": max_tokens}
    wishes = {name: value for name, value in given.items() if value is not None}
    return Setting(line.strip(), wishes | told, system)
