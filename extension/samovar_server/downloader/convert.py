"""Turns a GGUF file into the folder of safetensors that transformers loads. The one place with torch."""

from __future__ import annotations

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

DIGITS_APART = {"smollm"}
"""GGUF's names of pre-tokenizers that split off every digit before GPT-2's rules apply."""


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
