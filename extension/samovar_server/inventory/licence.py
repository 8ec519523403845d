"""Under which licence a model on disk may be used, as far as its files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from samovar_server.inventory.scan import PROVENANCE_FILE

MODEL_CARD = "README.md"


def licence_in(folder: Path) -> str | None:
    """What the Hub said when samovar brought the model, or what its model card says; None without either.

    It is the Hub's name of the licence, such as apache-2.0; of one without such a name, what the card calls
    it. (https://huggingface.co/docs/hub/repositories-licenses)
    """
    return _name_in(_provenance(folder)) or _name_in(_card(folder))


def _name_in(told: Mapping[str, Any]) -> str | None:
    named = [told.get("license"), told.get("license_name")]
    names = [name for name in named if isinstance(name, str) and name]
    return names[-1] if names[:1] == ["other"] else next(iter(names), None)


def _provenance(folder: Path) -> Mapping[str, Any]:
    try:
        told = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not brought by samovar, or damaged since: the card may still say it
        return {}
    return told if isinstance(told, dict) else {}


def _card(folder: Path) -> Mapping[str, Any]:
    try:
        return metadata_load(folder / MODEL_CARD) or {}
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that its author has not written well
        return {}
