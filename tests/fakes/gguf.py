"""Small files in GGUF, written by the format's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from samovar_server.inventory.references import ResolvedModel

VOCABULARY = 300


def write_gguf(file: Path, *, kv_heads: Any = 2, context: int = 256, elements: int = 640) -> Path:
    """A llama of 4 layers with 4 heads of 16 numbers; its weights are zeros."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(64)
    writer.add_block_count(4)
    writer.add_head_count(4)
    writer.add_head_count_kv(kv_heads)
    writer.add_token_list([f"token {number} ж" for number in range(VOCABULARY)])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_bool("general.flag", True)
    writer.add_tensor("token_embd.weight", np.zeros((elements // 64, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def resolved(*files: Path, name: str = "org/q:Q4_1") -> ResolvedModel:
    return ResolvedModel(name, name, files[0], "folder", None, files)
