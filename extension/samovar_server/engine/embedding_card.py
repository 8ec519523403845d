"""Reads how an embedding model makes a vector of a text: the card that sentence-transformers writes.

`modules.json` lists what a text goes through: the transformer, the pooling of its states, and behind that
dense layers and normalisation. Models that are older than it have `1_Pooling` alone.
(https://sbert.net/docs/sentence_transformer/usage/custom_models.html)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from samovar_server.errors import LoadFailed

MODULES_FILE = "modules.json"
POOLING_FOLDER = "1_Pooling"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TRANSFORMER_FILE = "sentence_bert_config.json"
"""What the card says of the transformer itself, whichever it is."""

Pooling = Literal["mean", "cls", "last"]

MODES: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    # before version 6 of sentence-transformers each mode had a switch
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}

ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.GELU, nn.Identity, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Tanh)
}

ASSUMED = {
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
    "use_residual": False,
}
"""What a dense layer's config may say of where it stands; anything else would change the vector."""

Stage = Callable[[Tensor], Tensor]
"""A vector [width] to the next one."""


@dataclass(frozen=True, slots=True)
class Card:
    """How vectors are made of states. `stages` come behind the pooling; `width` is the vectors', None if the
    stages leave it as it is. `longest` is the longest input in tokens, if the card says so; `lowercase` is
    done to texts before they become tokens."""

    pooling: Pooling
    stages: tuple[Stage, ...]
    width: int | None
    longest: int | None
    lowercase: bool


def makes_embeddings(folder: Path) -> bool:
    """Whether the model in `folder` says how its vectors are pooled."""
    return _pooling_file(folder, _modules(folder)).is_file()


def read_card(folder: Path, name: str) -> Card:
    """The card in `folder`, of the model `name`. LoadFailed for what is not supported."""
    stages: list[Stage] = []
    width = None
    modules = _modules(folder)
    kinds = [_kind(module) for module in modules]
    if modules and (kinds[:2] != ["Transformer", "Pooling"] or modules[0].get("path")):
        raise LoadFailed(
            f"{name} makes its vectors by {', '.join(kinds)}, which is not supported: "
            "a transformer in the model's own folder and a pooling must come first."
        )
    for module, kind in zip(modules[2:], kinds[2:], strict=True):
        if kind == "Normalize":
            stages.append(normalise)
        elif kind == "Dense":
            layer = _read_dense(_inside(folder, module, name), name)
            width = layer.linear.out_features
            stages.append(layer)
        else:
            raise LoadFailed(
                f"{name} has the module {kind} behind its pooling, which is not supported. "
                "Supported are Dense and Normalize."
            )
    if not modules:  # as OpenAI's vectors are
        stages.append(normalise)
    said = _read(folder / TRANSFORMER_FILE, {})
    if "message" in said.get("modality_config", ()):
        raise LoadFailed(
            f"{name} makes a chat message of a text before it makes a vector of it, which is not supported. "
            "Use a model that takes texts as they are."
        )
    return Card(
        pooling=_pooling(_read(_pooling_file(folder, modules), {}), name),
        stages=tuple(stages),
        width=width,
        longest=said.get("max_seq_length"),
        lowercase=bool(said.get("do_lower_case")),
    )


def normalise(vector: Tensor) -> Tensor:
    """The same direction with length 1."""
    return functional.normalize(vector, dim=-1)


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer behind the pooling, in float32."""

    linear: nn.Linear
    activation: nn.Module

    def __call__(self, vector: Tensor) -> Tensor:
        """vector [in_features] -> [out_features]."""
        out: Tensor = self.activation(self.linear(vector))
        return out


def _pooling(said: Mapping[str, Any], name: str) -> Pooling:
    """The one way of pooling that is said."""
    mode = said.get("pooling_mode")
    chosen = [mode] if isinstance(mode, str) else list(mode or ())
    chosen += [key for key, on in said.items() if key.startswith("pooling_mode_") and on is True]
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise LoadFailed(
            f"{name} pools its vectors by {' and '.join(chosen) or 'nothing'}, which is not supported. "
            "Supported are the mean, the first (cls) and the last token."
        )
    return MODES[chosen[0]]


def _read_dense(folder: Path, name: str) -> Dense:
    said = _read(folder / CONFIG_FILE, {})
    for key, assumed in ASSUMED.items():
        if said.get(key) not in (None, assumed):
            raise LoadFailed(f"{name} has a dense layer with {key} {said[key]!r}, which is not supported.")
    activation = str(said.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = ACTIVATIONS.get(activation.rpartition(".")[2]) if activation.startswith("torch.nn.") else None
    if kind is None:
        raise LoadFailed(
            f"{name} has a dense layer with the activation {activation}, which is not supported. "
            f"Supported are {', '.join(ACTIVATIONS)}."
        )
    try:
        weights = load_file(folder / WEIGHTS_FILE)
        linear = nn.Linear(*weights["linear.weight"].shape[::-1], bias="linear.bias" in weights)
        linear.load_state_dict({key.removeprefix("linear."): value for key, value in weights.items()})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise LoadFailed(
            f"{name}: the weights of the dense layer in {folder.name} cannot be read; "
            f"they must be there as {WEIGHTS_FILE}. Download the model again."
        ) from error
    return Dense(linear.float().requires_grad_(False), kind())


def _modules(folder: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = _read(folder / MODULES_FILE, [])
    return listed


def _kind(module: Mapping[str, Any]) -> str:
    """A module's class, which stands in another package from version to version."""
    return str(module.get("type", "")).rpartition(".")[2]


def _pooling_file(folder: Path, modules: Sequence[Mapping[str, Any]]) -> Path:
    paths = (str(module.get("path", "")) for module in modules if _kind(module) == "Pooling")
    return folder / Path(next(paths, POOLING_FOLDER)).name / CONFIG_FILE


def _inside(folder: Path, module: Mapping[str, Any], name: str) -> Path:
    path = str(module.get("path", ""))
    if not path or Path(path).name != path:
        raise LoadFailed(f"{name} names the folder {path!r} for a module, which is not one of its own.")
    return folder / path


def _read(path: Path, otherwise: Any) -> Any:
    """What the JSON file at `path` holds, `otherwise` if there is none."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return otherwise
    except ValueError as error:
        raise LoadFailed(f"The model's {path.name} is not JSON. Download the model again.") from error
    if not isinstance(said, type(otherwise)):
        raise LoadFailed(f"The model's {path.name} does not hold what is expected. Download the model again.")
    return said
