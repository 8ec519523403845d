"""Model folders for the fake worker: a true config and safetensors header, and a script."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FAKE_WORKER = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "vocab_size": 1000,
    "dtype": "bfloat16",
}
TENSORS = {"model.embed_tokens.weight": ("BF16", [1000, 64]), "model.norm.weight": ("BF16", [64])}
ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1}


@dataclass(frozen=True)
class FakeScript:
    """How the fake worker behaves. `reply` has one string per token; None: the last message's words.

    `hang_after_tokens` waits there until the client leaves; `crash_after_tokens` is a kill -9;
    `stop_after_tokens` is a kill -STOP: the process lives and does nothing any more.
    """

    reply: list[str] | None = None
    token_seconds: float = 0.0
    load_seconds: float = 0.0
    memory_bytes: int = 1_000_000
    fail: str | None = None
    crash_while_loading: bool = False
    hang_while_loading: bool = False
    crash_after_tokens: int | None = None
    hang_after_tokens: int | None = None
    stop_after_tokens: int | None = None


def write_model(folder: Path, name: str, script: FakeScript | None = None, **config: Any) -> Path:
    """Make `folder/name` a model that the fake worker loads; `config` adds to its config.json."""
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    (path / "model.safetensors").write_bytes(safetensors(TENSORS))
    (path / "fake.json").write_text(json.dumps(asdict(script or FakeScript())))
    return path


def safetensors(tensors: Mapping[str, tuple[str, list[int]]]) -> bytes:
    """A safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(end)
