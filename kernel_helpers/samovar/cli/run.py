"""`samovar run`: a prompt in, text out."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import closing

from samovar.display import LoadLine, TextScreen
from samovar.errors import BadPrompt
from samovar.request import as_messages, as_request
from samovar.session import current_session
from samovar.stage import Below, Solo, Stage
from samovar.together import Together


def run(options: Namespace) -> int:
    """Stream the answer to standard output."""
    prompt = " ".join(options.prompt) or _standard_input()
    if not prompt.strip():
        raise BadPrompt('There is no prompt. Write: samovar run "Why is the sky blue?"')
    request = as_request(options, as_messages(prompt, options.system))
    together = Together(current_session(), [request])
    model = request.model or "the model"
    stage: Stage = Solo(TextScreen(LoadLine(model)))
    if options.n is not None and options.n > 1:
        stage = Below([model], options.n)
    with closing(stage), closing(together.happenings()) as happenings:
        for happening in happenings:
            stage.show(happening)
    for error in together.errors():
        raise error
    return 0


def _standard_input() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("Type the prompt and end it with Ctrl-D.\n")
    return sys.stdin.read()


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"run": run}
