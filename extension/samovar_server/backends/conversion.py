"""GGUF turned into the safetensors that transformers loads: once for each file, in a process of its own."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from samovar_server.errors import LoadFailed
from samovar_server.inventory.conversions import conversion_of
from samovar_server.inventory.references import ResolvedModel
from samovar_server.inventory.scan import is_complete
from samovar_server.loader.child import ChildProcess
from samovar_server.loader.options import LoadProgress, ProgressCallback

# `tied`: the conversion ends with this server, whose end of its stdin closes then.
COMMAND = (sys.executable, "-P", "-m", "samovar_server.downloader.tied", "samovar_server.downloader.convert")

log = logging.getLogger(__name__)


async def convert(model: ResolvedModel, conversions: Path, report: ProgressCallback) -> None:
    """Make the folder, unless it is there. LoadFailed tells why it cannot be made."""
    folder = conversion_of(model.path, conversions)
    if is_complete(folder):
        return
    report(LoadProgress("converting", 0.0))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        child = ChildProcess([*COMMAND, str(model.path), str(folder)], environment, log)
    except OSError as error:
        raise LoadFailed(f"The conversion of {model.name} could not be started: {error.strerror}.") from error
    said = b""
    try:
        while (line := await child.lines.get()) is not None:
            said = line
        code = await child.exit_code
    finally:
        child.kill()
        child.close()
    if code != 0:
        reason = said.decode(errors="replace").strip() or f"it ended with exit code {code}"
        raise LoadFailed(f"{model.name} could not be turned into safetensors: {reason}.")
