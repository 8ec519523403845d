"""The worker process: `python -m samovar_server.engine.worker`.

Imports torch and transformers at once, so that an unused worker is the spare that saves a load the wait;
then reads its spec from stdin, loads, and serves until stdin ends. What the pipes carry is described in
`samovar_server.loader.spec`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import TYPE_CHECKING

from samovar_server.engine.threads import wait_briefly
from samovar_server.errors import SamovarError
from samovar_server.loader.failure import from_words
from samovar_server.loader.spec import Imported, Progress, Ready, WorkerSpec, parse_spec
from samovar_server.workers.pipes import Pipe, watch_stdin

if TYPE_CHECKING:
    from samovar_server.engine.serving import EmbeddingServing, Serving

log = logging.getLogger(__name__)

WEIGHTS_SHARE = 0.9
"""Of the whole load, what loading the weights is taken to be; the rest is packing and warming up."""


def main() -> None:
    """Run the worker."""
    pipe = Pipe()
    specs = watch_stdin()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    began = time.monotonic()
    wait_briefly(os.environ)
    from samovar_server.engine import serving  # torch and transformers

    imported = time.monotonic() - began
    pipe.send(Imported(imported))
    spec = parse_spec(specs.get(), WorkerSpec)
    try:
        server = serving.prepare(spec, lambda phase, fraction: _report(pipe, phase, fraction))
    except SamovarError as error:
        pipe.fail(error)
    except Exception as error:  # whatever it is, the caller waits for the cause
        log.exception("The load failed")
        pipe.fail(cause_of(error, spec))
    asyncio.run(_serve(pipe, server, imported))


async def _serve(pipe: Pipe, server: Serving | EmbeddingServing, imported: float) -> None:
    port = server.listen()
    pipe.send(
        Ready(
            port=port,
            device=server.device,
            dtype=server.dtype,
            context_length=server.context_length,
            memory_bytes=server.memory_bytes(),
            load_seconds={"import": imported, **server.load_seconds},
            slots=server.slots,
            reserve=server.reserve,
        )
    )
    await asyncio.Event().wait()


def _report(pipe: Pipe, phase: str, fraction: float) -> None:
    if phase == "weights":
        pipe.send(Progress("weights", fraction * WEIGHTS_SHARE))
    else:
        pipe.send(Progress("warmup", WEIGHTS_SHARE + fraction * (1 - WEIGHTS_SHARE)))


def cause_of(error: Exception, spec: WorkerSpec) -> SamovarError:
    """What an error of the libraries means to the user."""
    if isinstance(error, MemoryError):
        return from_words(spec.model_name, "out of memory")
    words = str(error).replace(spec.model_path, spec.model_name)
    return from_words(spec.model_name, words.strip() or type(error).__name__)


if __name__ == "__main__":
    main()
