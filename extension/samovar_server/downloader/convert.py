"""Turns a GGUF file into the folder of safetensors that transformers loads. The one place with torch.

`python -m samovar_server.downloader.convert FILE FOLDER` makes the folder, whole or not at all. When it
cannot, the exit code is 1 and standard output has the reason.
"""

from __future__ import annotations

import hashlib
import logging as python_logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from samovar_server.downloader.failures import PullFailed, from_os_error
from samovar_server.downloader.progress import Reporter
from samovar_server.downloader.staging import Provenance, exclusive, publish, work_folder
from samovar_server.inventory.scan import is_complete

log = python_logging.getLogger(__name__)

DIGITS_APART = {"smollm"}
"""GGUF's names of pre-tokenizers that split off every digit before GPT-2's rules apply."""


def main(argv: Sequence[str] | None = None) -> int:
    """The process: the exit code."""
    gguf, target = map(Path, sys.argv[1:] if argv is None else argv)
    # Whatever a library prints must not come before the reason.
    words = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _make(gguf, target)
    except PullFailed as error:
        reason = error.message
    except OSError as error:
        reason = from_os_error(error, target.parent).message
    except Exception as error:  # the last place that can tell the caller
        log.exception("The conversion failed")
        reason = (
            f"transformers cannot read it ({str(error).partition(os.linesep)[0] or type(error).__name__})"
        )
    else:
        return 0
    words.write(reason.rstrip(".") + "\n")
    words.close()
    return 1


def _make(gguf: Path, target: Path) -> None:
    quiet = Reporter(sys.stderr)
    with exclusive(target, quiet):
        if is_complete(target):  # by the process we waited for
            return
        with work_folder(target) as work:
            model = work / "model"
            model.mkdir()
            convert(gguf, model)
            with gguf.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            provenance = Provenance(
                name=gguf.stem, source=f"{gguf.name}, dequantised to float32", sha256={gguf.name: digest}
            )
            publish(model, target, provenance)


def convert(gguf: Path, folder: Path) -> None:
    """Write config, generation config, tokenizer and float32 weights of `gguf` into `folder`."""
    logging.disable_progress_bar()
    _tokenizer(gguf).save_pretrained(folder)
    _model(gguf).save_pretrained(folder)


def _tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    fields = GGUFReader(gguf).fields
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if fields["tokenizer.ggml.pre"].contents() in DIGITS_APART:
        # transformers knows no rule for this one and takes GPT-2's, which joins the space before a number
        # to it: "a  1" gets other tokens than those the model was trained on.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    architecture = fields["general.architecture"].contents()
    tokenizer.model_max_length = fields[f"{architecture}.context_length"].contents()
    return tokenizer


def _model(gguf: Path) -> PreTrainedModel:
    source = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    # A model that came from GGUF counts as quantised and refuses to be saved. A fresh one, of the same
    # config without that entry, takes over the tensors themselves: no second copy in memory.
    of_the_file = {"quantization_config", "_model_name_or_path"}
    fields = {name: value for name, value in source.config.to_dict().items() if name not in of_the_file}
    config = AutoConfig.for_model(**fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(source.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


if __name__ == "__main__":
    sys.exit(main())
