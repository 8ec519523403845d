"""`%%generate`: a cell that is a prompt."""

from __future__ import annotations

import argparse
from argparse import Namespace
from contextlib import closing
from dataclasses import dataclass, field, replace
from keyword import iskeyword
from typing import TYPE_CHECKING

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from samovar.errors import BadOption, BadPrompt, SamovarError
from samovar.interpolate import interpolate
from samovar.magics.shell import in_notebook, notice, with_nearest_model, words
from samovar.options import HelpShown, OptionParser, add_generation_options

if TYPE_CHECKING:
    from samovar.display import Screen
    from samovar.generation import Message, Request, Run
    from samovar.result import Generation

HELP = """\
Generate text with a language model, streamed into the cell:

    %%generate --temperature 0.7
    Explain {topic} in one sentence.

The cell is the prompt. {expressions} in it, and in the options, are evaluated among your
variables, as in an f-string; {{ and }} are braces. The result is `_`, and has .text, .usage,
.timing, .finish_reason, .model and .request. Interrupting the cell stops the model and keeps
what has come so far."""


@dataclass
class Conversation:
    """What has been said under one name of `--chat`."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)


def make_parser() -> OptionParser:
    """The options of `%%generate`."""
    parser = OptionParser("%%generate", description=HELP)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)  # there are none: see _check
    add_generation_options(parser)
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


@magics_class
class GenerateMagics(Magics):
    """`%%generate`, and the conversations held with it."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell)
        self._shell = shell
        self._conversations: dict[str, Conversation] = {}

    @no_var_expand
    @line_cell_magic
    def generate(self, line: str, cell: str | None = None) -> Generation | None:
        """Generate text. (The help of the options replaces this.)"""
        try:
            options = make_parser().parse(words(line))
        except HelpShown:
            return None
        _check(options)
        if cell is None:  # the line form is there for `%generate --help`, which needs no cell
            raise BadPrompt("There is no prompt: begin the cell with %%generate and write it below.")
        prompt = cell.strip("\n")
        if not options.literal:
            prompt = interpolate(prompt, self._shell.user_ns)
            self._interpolate(options)
        if not prompt.strip():
            raise BadPrompt("There is no prompt: write it below the line with %%generate.")
        return self._generate(options, prompt)

    def _interpolate(self, options: Namespace) -> None:
        for name in ("model", "system", "chat"):
            text = getattr(options, name)
            if text is not None:
                setattr(options, name, interpolate(text, self._shell.user_ns, what=f"--{name}"))
        options.stop = [interpolate(text, self._shell.user_ns, what="--stop") for text in options.stop]

    def _generate(self, options: Namespace, prompt: str) -> Generation:
        from samovar.generation import Run
        from samovar.session import current_session

        conversation = self._conversation(options)
        session = current_session()
        try:
            result = self._stream(
                Run(session, _request(options, conversation, prompt)), self._screen(options)
            )
        except SamovarError as error:
            if error.partial is not None:
                partial = self._shown(error.partial, options.out)
                self._shell.displayhook.update_user_ns(partial)  # `_`, as for what a cell returns
            raise with_nearest_model(error, session, options.model) from None
        if result.finish_reason != "interrupted":
            conversation.turns += [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": result.text},
            ]
        return self._shown(result, options.out)

    def _stream(self, run: Run, screen: Screen) -> Generation:
        try:
            with closing(screen), closing(run.pieces(screen.progress)) as pieces:
                for piece in pieces:
                    screen.add(piece)
        except KeyboardInterrupt:
            return run.result("interrupted")
        return run.result()

    def _shown(self, result: Generation, name: str | None) -> Generation:
        """`result`, marked as shown by this cell, and in the variable `name`."""
        result = replace(result, shown_in_cell=self._shell.execution_count)
        if name is not None:
            self._shell.push({name: result})
        return result

    def _screen(self, options: Namespace) -> Screen:
        from samovar.display import CellScreen, TextScreen

        model = options.model or "the model"
        if in_notebook(self._shell) and not options.raw:
            return CellScreen(model, markdown=options.markdown)
        return TextScreen(notice(self._shell, model))

    def _conversation(self, options: Namespace) -> Conversation:
        """The conversation that the options name, or a new one."""
        if options.chat is None:
            return Conversation(options.system)
        if options.new:
            self._conversations.pop(options.chat, None)
        conversation = self._conversations.setdefault(options.chat, Conversation())
        if options.system is not None:
            conversation.system = options.system
        return conversation


def _check(options: Namespace) -> None:
    """Refuse what the parser cannot see."""
    if options.words:
        word = options.words[0]
        raise BadOption(
            f"What is {word!r} here? The prompt goes below the line; a model is named by --model {word}."
        )
    if options.new and options.chat is None:
        raise BadOption("--new begins a conversation anew and needs --chat NAME.")
    if options.out is not None and (not options.out.isidentifier() or iskeyword(options.out)):
        raise BadOption(f"--out: {options.out!r} cannot be the name of a variable.")


def _request(options: Namespace, conversation: Conversation, prompt: str) -> Request:
    from samovar.generation import as_messages, as_request

    *system, question = as_messages(prompt, conversation.system)
    return as_request(options, (*system, *conversation.turns, question))


GenerateMagics.generate.__doc__ = make_parser().format_help()
