"""Why a load failed: the real cause in one sentence, from what an engine or the system says."""

from __future__ import annotations

import re
import signal

from samovar_server.errors import InsufficientMemory, LoadFailed, SamovarError

SHOWN_CHARACTERS = 300

_OUT_OF_MEMORY = re.compile(
    r"out of (device |host )?memory|outofmemory|not enough memory|can(no|')t allocate memory"
    r"|(failed|unable) to allocate|bad_alloc",
    re.IGNORECASE,
)
"""How PyTorch, CUDA, llama.cpp, vLLM and the C library say it."""

_FREE_SOME = (
    "Unload other models or end other programs, or load it in fewer bits (quantization) or with a smaller "
    "context_length."
)


def from_words(model: str, words: str, *, engine: str | None = None) -> SamovarError:
    """What the `words` of an engine mean, of which the first sentence is shown.

    `engine` is named when it is not samovar's own.
    """
    if _OUT_OF_MEMORY.search(words):
        return InsufficientMemory(f"Memory ran out while {model} was loaded. {_FREE_SOME}")
    cause = " ".join(words.split()).split(". ")[0][:SHOWN_CHARACTERS].rstrip(".")
    by = f" by {engine}" if engine else ""
    return LoadFailed(f"{model} could not be loaded{by}: {cause}. See the server's log.")


def from_exit(model: str, code: int) -> SamovarError:
    """What it means that a process ended with `code` (negative: by that signal) while it loaded."""
    if code == -signal.SIGKILL:
        return InsufficientMemory(
            f"The worker process of {model} was killed while it loaded (SIGKILL, as the system does when "
            f"memory runs out). {_FREE_SOME}"
        )
    how = describe_exit(code)
    return LoadFailed(f"The worker process of {model} {how} while it loaded. See the server's log.")


def describe_exit(code: int) -> str:
    """How a process ended, to follow its name in a sentence; negative codes are signals."""
    if code >= 0:
        return f"ended with exit code {code}"
    if -code == signal.SIGKILL:
        return "was killed (SIGKILL, as the system does when memory runs out)"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
