"""`samovar run`: a prompt in, text out."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import closing

from samovar.display import LoadLine, TextScreen
from samovar.errors import BadPrompt
from samovar.generation import Run, as_messages, as_request
from samovar.session import current_session


def run(options: Namespace) -> int:
    """Stream the answer to standard output."""
    prompt = " ".join(options.prompt) or _standard_input()
    if not prompt.strip():
        raise BadPrompt('There is no prompt. Write: samovar run "Why is the sky blue?"')
    request = as_request(options, as_messages(prompt, options.system))
    generation = Run(current_session(), request)
    screen = TextScreen(LoadLine(options.model or "the model"))
    with closing(screen), closing(generation.pieces(screen.progress)) as pieces:
        for piece in pieces:
            screen.add(piece)
    return 0


def _standard_input() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("Type the prompt and end it with Ctrl-D.\n")
    return sys.stdin.read()
