"""`%%generate`: a cell that is a prompt."""

from __future__ import annotations

from argparse import Namespace
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.display import display

from samovar.errors import BadPrompt, Interrupted, SamovarError
from samovar.interpolate import interpolate
from samovar.magics.generate_line import check, fill_in, look_up_schema, make_parser
from samovar.magics.shell import in_notebook, notice, words
from samovar.options import HelpShown

if TYPE_CHECKING:
    from samovar.answers import Answers
    from samovar.request import Message, Request
    from samovar.result import Generation
    from samovar.stage import Stage
    from samovar.together import Together


@dataclass
class Conversation:
    """What has been said under one name of `--chat`."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)


@magics_class
class GenerateMagics(Magics):
    """`%%generate`, and the conversations held with it."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell)
        self._shell = shell
        self.conversations: dict[str, Conversation] = {}

    @no_var_expand
    @line_cell_magic
    def generate(self, line: str, cell: str | None = None) -> Generation | Answers | None:
        """Generate text. (The help of the options replaces this.)"""
        try:
            options = make_parser().parse(words(line))
        except HelpShown:
            return None
        check(options)
        if cell is None:  # the line form is there for `%generate --help`, which needs no cell
            raise BadPrompt("There is no prompt: begin the cell with %%generate and write it below.")
        prompt = cell.strip("\n")
        if not options.literal:
            prompt = self._filled_in(options, prompt)
        if not prompt.strip():
            raise BadPrompt("There is no prompt: write it below the line with %%generate.")
        look_up_schema(options, self._shell.user_ns)
        return self._generate(options, prompt)

    def _filled_in(self, options: Namespace, prompt: str) -> str:
        """`prompt` and the texts among `options` with the values of their expressions."""
        try:
            filled = interpolate(prompt, self._shell.user_ns)
            fill_in(options, self._shell.user_ns)
        except BadPrompt as error:
            raise BadPrompt(f"{error} With --literal the whole cell is sent as it stands.") from None
        return filled

    def _generate(self, options: Namespace, prompt: str) -> Generation | Answers:
        from samovar.session import current_session
        from samovar.together import Together

        conversation = self._conversation(options)
        requests = _requests(options, conversation, prompt)
        together = Together(current_session(), requests)
        stage = self._stage(options, [request.model or "the model" for request in requests])
        interrupted = False
        with closing(stage):
            try:
                with closing(together.happenings()) as happenings:
                    for happening in happenings:
                        stage.show(happening)
            except KeyboardInterrupt:
                interrupted = True
                stage.catch_up(together.results())
        if interrupted:
            self._break_off(options, together, None)
        if errors := together.errors():
            self._break_off(options, together, errors[0])
        result = self._shown(options, together)
        conversation.turns += [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": together.results()[0].text},
        ]
        return result

    def _break_off(self, options: Namespace, together: Together, error: SamovarError | None) -> NoReturn:
        """End the cell by `error`, or as interrupted, with what had come in `_` and in the --out name."""
        partial = self._shown(options, together)
        came = any(result.text for result in together.results())
        if came:
            display(partial)  # as what the cell gives: its summary, and what the notebook stores of it
        self._shell.displayhook.update_user_ns(partial)  # `_`, as for what a cell returns
        if error is not None:
            raise error from None
        raise Interrupted(partial, f"What had come is in {options.out or '_'}." if came else "") from None

    def _shown(self, options: Namespace, together: Together) -> Generation | Answers:
        """The result, marked as shown by this cell, and in the variable that --out names."""
        from samovar.answers import Answers

        cell = self._shell.execution_count
        schema_class = options.schema if isinstance(options.schema, type) else None
        results = [
            replace(result, schema_class=schema_class, shown_in_cell=cell) for result in together.results()
        ]
        shown = results[0] if len(results) == 1 else Answers(results, shown_in_cell=cell)
        if options.out is not None:
            self._shell.push({options.out: shown})
        return shown

    def _stage(self, options: Namespace, models: list[str]) -> Stage:
        from samovar.display import CellScreen, TextScreen
        from samovar.stage import Below, Side, Solo

        rich = in_notebook(self._shell) and not options.raw
        choices = options.n or 1
        if len(models) * choices > 1:
            return Side(models, choices, markdown=options.markdown) if rich else Below(models, choices)
        if rich:
            return Solo(CellScreen(models[0], markdown=options.markdown))
        return Solo(TextScreen(notice(self._shell, models[0])))

    def _conversation(self, options: Namespace) -> Conversation:
        """The conversation that the options name, or a new one."""
        if options.chat is None:
            return Conversation(options.system)
        if options.new:
            self.conversations.pop(options.chat, None)
        conversation = self.conversations.setdefault(options.chat, Conversation())
        if options.system is not None:
            conversation.system = options.system
        return conversation


def _requests(options: Namespace, conversation: Conversation, prompt: str) -> list[Request]:
    """One for each model that is named."""
    from samovar.request import as_messages, as_request

    *system, question = as_messages(prompt, conversation.system)
    messages = (*system, *conversation.turns, question)
    return [
        as_request(Namespace(**vars(options), model=model), messages) for model in options.models or [None]
    ]


GenerateMagics.generate.__doc__ = make_parser().format_help()
