"""Stands for CUDA's graphs on a machine without a GPU.

As a CUDA graph does, it keeps the operations and the memory they worked on, and no Python: a replay does them
again, from what that memory holds then. What ends the capture of a CUDA graph ends this, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select")
"""Operations for which a GPU must be waited for."""


class RecordedGraph(TorchDispatchMode):
    """A graph of `compute`, which is run once for it."""

    def __init__(self, compute: Callable[[], None]) -> None:
        super().__init__()
        self.replays = 0
        self._calls: list[tuple[Any, tuple[Any, ...], Mapping[str, Any], Any]] = []
        with self:
            compute()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in WAITING:
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        if name == "lift_fresh" and args[0].dim():
            raise RuntimeError("a copy from the host: operation not permitted when stream is capturing")
        output = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, output))
        return output

    def replay(self) -> None:
        """See Graph."""
        self.replays += 1
        with torch.inference_mode():
            for func, args, kwargs, output in self._calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(output), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
