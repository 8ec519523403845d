"""How long the inventory of 200 models takes, at first and again: `python -m tests.benchmarks.inventory`."""

from __future__ import annotations

import json
import statistics
import struct
import tempfile
import time
from pathlib import Path

from huggingface_hub import constants

from samovar_server.shelf import Shelf

MODELS, TENSORS, FILES = 200, 300, 10
REPEATS = 5


def make(folder: Path) -> None:
    """A model with a header as long as real ones have, and its weights as a hole."""
    folder.mkdir(parents=True)
    entry = {"dtype": "BF16", "shape": [1024, 1024], "data_offsets": [0, 2 << 20]}
    header = json.dumps({f"model.layers.{n}.weight": entry for n in range(TENSORS)}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(1 << 30)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    for number in range(FILES - 2):
        (folder / f"file-{number}.json").write_text("{}")


def main() -> None:
    """Print the times."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "models")
        constants.HF_HUB_CACHE = str(Path(place, "hub"))
        for number in range(MODELS):
            make(folder / "org" / f"model-{number}")
        shelf = Shelf([folder], {}, Path(place, "converted"))
        seconds = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            assert len([model.as_json() for model in shelf.inventory({}).models]) == MODELS
            seconds.append(time.perf_counter() - began)
    print(f"{MODELS} models: {seconds[0]:.2f} s at first, then {statistics.median(seconds[1:]):.2f} s")


if __name__ == "__main__":
    main()
