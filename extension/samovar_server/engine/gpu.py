"""What a worker asks of a GPU beside computing. Without a GPU nothing here touches CUDA."""

from __future__ import annotations

import torch

CONTEXT_BYTES = 512 * 1024 * 1024
"""What CUDA itself takes for a process that uses torch: about this much, and torch does not count it."""


def settle_on(device: torch.device) -> None:
    """Let this thread, and what libraries start from it, use `device`."""
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    # cuDNN plans each new shape for a while, and nearly every step of a prompt has one.
    torch.backends.cuda.enable_cudnn_sdp(False)


def give_back(device: torch.device) -> None:
    """Return what a load has needed for a moment, such as weights before they were quantised."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def taken_bytes(device: torch.device) -> int:
    """What this process takes of the memory of `device`, a GPU, as others see it."""
    return torch.cuda.memory_reserved(device) + CONTEXT_BYTES
