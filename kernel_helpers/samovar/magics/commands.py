"""The commands of `%samovar`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from IPython.core.interactiveshell import InteractiveShell

from samovar.defaults import model_in_use, use
from samovar.errors import BadOption, Interrupted
from samovar.generation_options import add_load_options
from samovar.options import OptionParser

if TYPE_CHECKING:
    from samovar.records import Download
    from samovar.session import Session

Run = Callable[[InteractiveShell, Namespace], str]


def no_options(parser: OptionParser) -> None:
    """Nothing can follow."""


@dataclass(frozen=True)
class Command:
    """One command: what it is called, what can follow it, what it does; `run` returns what it prints."""

    name: str
    usage: str
    help: str
    run: Run
    options: Callable[[OptionParser], None] = no_options
    takes_model: bool = False

    def parser(self) -> OptionParser:
        """What can follow it."""
        parser = OptionParser(f"%samovar {self.name}", description=self.help)
        self.options(parser)
        return parser


def status(shell: InteractiveShell, options: Namespace) -> str:
    """The server that is used, the model in use, and what is in memory."""
    server = _session().server
    used = model_in_use()
    lines = [f"{server.url} (found through {server.source})"]
    if used is not None:
        lines.append(f"In use where a request names no model: {used}")
    return "\n".join([*lines, ps(shell, options)])


def ps(shell: InteractiveShell, options: Namespace) -> str:
    """The models in memory."""
    from samovar.tables import loaded_table

    return loaded_table(_session().loaded())


def list_models(shell: InteractiveShell, options: Namespace) -> str:
    """The models that can be named."""
    from samovar.tables import models_table

    return models_table(_session().models())


def use_model(shell: InteractiveShell, options: Namespace) -> str:
    """Choose the model for requests of this kernel that name none."""
    if options.default == (options.model is not None):
        raise BadOption("Name the model to use, or --default for the server's own.")
    if options.model is not None:
        _session().check_model(options.model)
    use(options.model)
    return f"Using {options.model or 'the default model of the server'}."


def _use_options(parser: OptionParser) -> None:
    parser.add_argument("model", nargs="?")
    parser.add_argument("--default", action="store_true", help="the server's own default again")


def load(shell: InteractiveShell, options: Namespace) -> str:
    """Bring a model into memory."""
    from samovar.loading import Loading, watched
    from samovar.notices import notice_here
    from samovar.request import as_load_options
    from samovar.tables import loaded_line

    loading = Loading(
        _session(),
        options.model,
        ttl=options.ttl,
        pin=options.pin or None,
        options=as_load_options(options),
    )
    return loaded_line(watched(loading, notice_here(options.model)))


def _load_options(parser: OptionParser) -> None:
    parser.add_argument("model")
    parser.add_argument("--pin", action="store_true", help="never make room by unloading it")
    add_load_options(parser)


def unload(shell: InteractiveShell, options: Namespace) -> str:
    """Free a model's memory."""
    from samovar.tables import unloaded_line

    if options.all == (options.model is not None):
        raise BadOption("Name one model to unload, or --all. %samovar ps lists those in memory.")
    if options.all:
        return unloaded_line(_session().unload_all(now=options.now))
    return unloaded_line(_session().unload(options.model, now=options.now))


def _unload_options(parser: OptionParser) -> None:
    parser.add_argument("model", nargs="?")
    parser.add_argument("--all", action="store_true", help="of all models")
    parser.add_argument("--now", action="store_true", help="end its running requests, too")


def pull(shell: InteractiveShell, options: Namespace) -> str:
    """Bring a model to the server's disk."""
    from samovar.downloading import begin, followed
    from samovar.notices import line_here

    session = _session()
    begun = begin(
        session,
        options.model,
        revision=options.revision,
        include=options.include,
        exclude=options.exclude,
        quantization=options.quantization,
    )
    try:
        with closing(line_here()) as line:
            done = followed(session, begun, line)
    except KeyboardInterrupt:
        told = "What had come stays on the server's disk; pull again to go on."
        elsewhere = "The download was begun elsewhere and goes on; %samovar cancel ends it."
        raise Interrupted(begun.job, told if begun.is_ours else elsewhere) from None
    return f"{options.model} is here: {done.path}"


def _pull_options(parser: OptionParser) -> None:
    parser.add_argument("model", help="org/name on the Hugging Face Hub, its page's address, or an alias")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit")
    parser.add_argument(
        "--include", metavar="GLOB", action="append", default=[], help="only such files; may be given again"
    )
    parser.add_argument(
        "--exclude", metavar="GLOB", action="append", default=[], help="no such files; may be given again"
    )
    parser.add_argument("--quantization", metavar="TAG", help="the GGUF file with this tag, such as Q4_K_M")


def cancel(shell: InteractiveShell, options: Namespace) -> str:
    """Stop a download."""
    from samovar.downloading import find

    session = _session()
    job = _only(session.downloads()) if options.download is None else find(session, options.download)
    session.cancel_download(job.job_id)
    return f"Cancelled {job.url}; what has come stays, and %samovar pull {job.url} goes on from there."


def _only(jobs: Sequence[Download]) -> Download:
    """The one that runs."""
    running = [job for job in jobs if not job.is_over]
    if not running:
        raise BadOption("No download is running.")
    if len(running) > 1:
        raise BadOption(f"Say which download to cancel: {', '.join(job.url for job in running)}.")
    return running[0]


def _cancel_options(parser: OptionParser) -> None:
    parser.add_argument("download", nargs="?", help="its model; may be left out where one download runs")


def doctor(shell: InteractiveShell, options: Namespace) -> str:
    """Whether the set-up works."""
    from samovar.doctor import checks, report

    return report(list(checks()))


def _session() -> Session:
    from samovar.session import current_session

    return current_session()


COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command("status", "status", "the server that is used, and the models in its memory", status),
        Command(
            "use",
            "use NAME",
            "the model that is meant where none is named; --default: the server's own",
            use_model,
            _use_options,
            takes_model=True,
        ),
        Command("list", "list", "the models that can be named", list_models),
        Command("ps", "ps", "the models in memory", ps),
        Command(
            "load",
            "load NAME",
            "bring a model into memory; --ttl SECONDS, --pin and other options of loading",
            load,
            _load_options,
            takes_model=True,
        ),
        Command(
            "unload",
            "unload NAME",
            "free its memory once its running requests have ended; --now: at once; --all",
            unload,
            _unload_options,
            takes_model=True,
        ),
        Command("pull", "pull NAME", "bring a model to the server's disk", pull, _pull_options),
        Command("cancel", "cancel NAME", "stop a download; what has come stays", cancel, _cancel_options),
        Command("doctor", "doctor", "whether all is well, and what to do where it is not", doctor),
    )
}
