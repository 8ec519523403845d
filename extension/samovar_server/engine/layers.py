"""Brings the matrix products that models write in ways of their own into the form of `nn.Linear`.

Packing and quantisation know `nn.Linear`; and only packed layers give a row the same bits whatever the
number of rows. GPT-2's `Conv1D` is a linear layer with its weight transposed. A mixture of experts keeps
the weights of all experts in one tensor and multiplies as many rows with each as were routed there. Its
router multiplies with a bare parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


def to_linears(model: nn.Module) -> None:
    """Replace, below `model`, what can be said with `nn.Linear`. Outputs stay the same but for rounding."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                setattr(parent, name, linear(child.weight.detach().t().contiguous(), child.bias.detach()))
            elif _holds_experts(child):
                setattr(parent, name, SplitExperts(child))
            elif _is_router(child):
                weight = child.weight.detach()
                del child.weight
                child.weight = weight.as_subclass(RouterWeight)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer around `weight` [outputs, features], without a copy."""
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return layer


class SplitExperts(nn.Module):
    """The experts of one layer with linear layers of their own, run one after the other.

    A token's outputs are added in the order of the experts' numbers, so that its sum does not depend on
    which other tokens there are.
    """

    def __init__(self, experts: Any) -> None:
        super().__init__()
        self.into = nn.ModuleList(_split(experts, "gate_up_proj" if experts.has_gate else "up_proj"))
        self.back = nn.ModuleList(_split(experts, "down_proj"))
        self.activate = experts._apply_gate if experts.has_gate else experts.act_fn

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Rows [tokens, hidden], with the experts' numbers and weights [tokens, k] for each."""
        total = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            tokens, place = torch.where(top_k_index == expert)
            out = self.back[expert](self.activate(self.into[expert](hidden_states[tokens])))
            total.index_add_(0, tokens, (out * top_k_weights[tokens, place, None]).to(total.dtype))
        return total


class RouterWeight(Tensor):
    """A weight that is multiplied with each row apart. Routers are small, so this costs little."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """torch's hook; everything but a linear layer goes its usual way."""
        if func is not functional.linear:
            return super().__torch_function__(func, types, args, kwargs or {})
        return _apart(*args, **(kwargs or {}))


def _apart(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = x.reshape(-1, 1, x.shape[-1])
    transposed = weight.as_subclass(Tensor).t().expand(rows.shape[0], -1, -1)
    y = torch.bmm(rows, transposed).view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _holds_experts(module: nn.Module) -> bool:
    """Whether `module` is made by transformers' `use_experts_implementation`, in a way that we know."""
    return (
        hasattr(module, "_apply_gate")
        and getattr(module, "has_post_expert_norm", None) is False
        and isinstance(getattr(module, "down_proj", None), nn.Parameter)
    )


def _split(experts: Any, name: str) -> list[nn.Linear]:
    weights = getattr(experts, name).detach()
    biases = getattr(experts, f"{name}_bias").detach() if experts.has_bias else [None] * len(weights)
    delattr(experts, name)  # else all weights would stay beside their packed copies
    return [
        linear(weight.t().contiguous() if experts.is_transposed else weight, bias)
        for weight, bias in zip(weights, biases, strict=True)
    ]


def _is_router(module: nn.Module) -> bool:
    """Whether `module` owns a matrix that is none of torch's layers, as the routers of mixtures do."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and not isinstance(module, nn.Linear | nn.Embedding)
