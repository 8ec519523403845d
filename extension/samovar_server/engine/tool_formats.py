"""How model families write tool calls, and which of these ways a model's chat template shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write calls: `trigger opening call (between call)* closing`.

    A call is `head name middle arguments tail`. `trigger` announces calls behind other text; where it is
    empty, an answer is either one call or text. `between` None allows one call only. `native` formats are
    rendered by the model's own template, others by us.
    """

    trigger: str
    opening: str
    middle: str
    between: str | None
    closing: str
    native: bool = True
    id_length: int = 24
    id_prefix: str = "call_"
    head: str = '{"name": "'
    tail: str = "}"


HERMES = ToolFormat(
    trigger="<tool_call>",
    opening="\n",
    middle='", "arguments": ',
    between="\n</tool_call>\n<tool_call>\n",
    closing="\n</tool_call>",
)
"""Hermes, Qwen 2.5 and 3: https://github.com/NousResearch/Hermes-Function-Calling"""

LLAMA = ToolFormat(trigger="", opening="", middle='", "parameters": ', between=None, closing="")
"""Llama 3.1 and later: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1"""

MISTRAL = ToolFormat(
    trigger="[TOOL_CALLS]",
    opening="[",
    middle='", "arguments": ',
    between=", ",
    closing="]",
    # Its templates take ids of nine letters and digits only.
    id_length=9,
    id_prefix="",
)
"""Mistral up to v0.3 and Nemo: https://docs.mistral.ai/guides/tokenization"""

GENERIC = ToolFormat(
    trigger=HERMES.trigger,
    opening=HERMES.opening,
    middle=HERMES.middle,
    between=HERMES.between,
    closing=HERMES.closing,
    native=False,
)
"""For all other models: Hermes' way, explained to the model in the system message."""


def choose_format(chat_template: str | None) -> ToolFormat:
    """The format that a model has learnt, by its chat template."""
    template = chat_template or ""
    if "tools" not in template:
        return GENERIC
    if "<tool_call>" in template and '"arguments"' in template and "<function=" not in template:
        return HERMES
    if "[TOOL_CALLS]" in template and "[ARGS]" not in template:
        return MISTRAL
    if '"parameters": ' in template and "<|eot_id|>" in template:
        return LLAMA
    return GENERIC
