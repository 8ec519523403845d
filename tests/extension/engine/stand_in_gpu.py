"""Runs steps of tiny models on a device that has shapes but no numbers; prints what went wrong, as JSON.

By torch's fake tensors on a registered device: whatever mixes tensors of that device with those of the host
raises, as does whatever asks the device for a number. It is a program, as a device cannot be unregistered.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from samovar_server.engine.quantize import prepare_linears
from samovar_server.engine.runner import Runner
from samovar_server.engine.step import Logits, NewToken, Piece
from tests.extension.engine.tiny_models import IN_SLOTS, tiny


class Once:
    """A graph that was recorded by running once: what a capture forbids raises by itself here."""

    def __init__(self, compute: Callable[[], None]) -> None:
        compute()

    def replay(self) -> None:
        """There are no numbers to compute."""


def problem(name: str, device: torch.device) -> str | None:
    """What went wrong with the model `name`, if anything did."""
    recorded: list[Once] = []

    def capture(compute: Callable[[], None]) -> Once:
        recorded.append(Once(compute))
        return recorded[-1]

    model = placed(name, device)
    runner = Runner(model, 4, 512, capture=capture)
    try:
        runner.run((), [Piece(0, [5] * 40, 0, Logits.EVERY), Piece(2, [6] * 3, 0, Logits.NONE)])
        runner.run([NewToken(2, 7, 3)], [Piece(0, [5] * 9, 40)])
        runner.run([NewToken(0, 7, 49), NewToken(2, 7, 4)], ())
        runner.copy_prefix(0, 1, 16)
        logits = runner.run([NewToken(0, 7, 50), NewToken(2, 7, 5)], ())
    except Exception as error:  # noqa: BLE001 - any is what is looked for
        return f"{type(error).__name__}: {error}"
    if logits.device != device or logits.shape[0] != 2:
        return f"logits {tuple(logits.shape)} on {logits.device}"
    return None if recorded else "no graph"


def placed(name: str, device: torch.device) -> Any:
    """The model, prepared as one that is loaded without quantisation."""
    with unset_fake_temporarily():  # making a model looks at numbers
        model = tiny(name)
    for module in model.modules():
        for key, weight in module._parameters.items():
            if weight is not None:
                placed = torch.empty(weight.shape, dtype=torch.bfloat16, device=device)
                module._parameters[key] = nn.Parameter(placed, requires_grad=False)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    prepare_linears(model, None, "none", device)
    return model


def main() -> None:
    _setup_privateuseone_for_python_backend("gpu")
    fake_tensor.CONSTANT_NUMEL_LIMIT = 0  # small constants have no numbers either
    with FakeTensorMode():
        problems = {name: problem(name, torch.device("gpu:0")) for name in IN_SLOTS}
    json.dump(problems, sys.stdout)


if __name__ == "__main__":
    main()
