"""Decoder layers of Llama's layout with few calls between the kernels.

A token's way through a small model is short enough for Python to matter, and for every view that is made
on the way: all that is not a product of the layers' weights takes 10 ms of a step of SmolLM2-135M with one
row, and 20 with 16 (2 cores of a Xeon of 2019). Queries, keys and values are turned together, by tables that
hold the queries' scale and leave values as they are. Only the forward functions of the layers are replaced;
their modules and names stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from samovar_server.engine.attention import Settings, attend_rows
from samovar_server.engine.linear import SIBLINGS, FusedLinears, RowLinear, fused_name
from samovar_server.engine.step import Rotary, Step

LAYOUT = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"})
"""transformers' classes that are this layer, but for a bias and a window: norm, attention with rotary
positions over the whole head, norm, gated MLP, each with its residual."""


def make_lean(model: nn.Module) -> None:
    """Give the layers of `model` that have the layout a lean forward function.

    Their linear layers must be fused already; layers where that could not be done stay as they are.
    """
    for layer in model.modules():
        if type(layer).__name__ in LAYOUT and _is_fused(layer):
            layer.forward = LeanForward(layer)


def _is_fused(layer: Any) -> bool:
    attention, mlp = SIBLINGS
    return hasattr(layer.self_attn, fused_name(attention)) and hasattr(layer.mlp, fused_name(mlp))


class LeanForward:
    """The forward function of one decoder layer, called as transformers' own is."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._plain = MethodType(type(layer).forward, layer)
        self._index: int = attention.layer_idx
        self._head_dim: int = attention.head_dim
        self._scaling: float = attention.scaling
        window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
        if type(layer).__name__ == "LlamaDecoderLayer":  # whose attention has none, whatever is configured
            window = None
        self._settings = Settings(window, None, None)
        self._linears: list[Callable[[Tensor], Tensor]] = [
            _whole(attention, SIBLINGS[0]),
            attention.o_proj,
            _whole(mlp, SIBLINGS[1]),
            mlp.down_proj,
        ]
        self._products = [_function(linear) for linear in self._linears]
        self._activate: Callable[[Tensor], Tensor] = mlp.act_fn.forward
        self._norms = [rms_norm(layer.input_layernorm), rms_norm(layer.post_attention_layernorm)]
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._heads = [part.out_features // self._head_dim for part in parts]

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        slot_step: Step | None = None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states [1, tokens, width] -> the same shape; in a step they are changed in place."""
        if slot_step is None:  # not the engine calls but the self-check, which wants transformers' own way
            kwargs |= {"position_embeddings": position_embeddings, "past_key_values": past_key_values}
            whole: Tensor = self._plain(hidden_states, **kwargs)
            return whole
        # The products alone know nothing of hooks.
        qkv, out, gate_up, down = self._linears if slot_step.adapted else self._products
        x = hidden_states[0]
        heads = qkv(self._norms[0](x)).view(x.shape[0], -1, self._head_dim)
        query, key, value = (
            self._rotary(slot_step, position_embeddings).turn(heads).split_with_sizes(self._heads, 1)
        )
        cache = past_key_values.layers[self._index]
        cache.write(slot_step, key, value)
        attended = attend_rows(query, cache.keys, cache.values, slot_step, self._settings)
        x.add_(out(attended.flatten(1)))
        gate, up = gate_up(self._norms[1](x)).chunk(2, -1)
        x.add_(down(self._activate(gate).mul_(up)))
        return hidden_states

    def _rotary(self, step: Step, position_embeddings: tuple[Tensor, Tensor]) -> Rotary:
        """The positions of the step's tokens, for all of its layers."""
        cos, sin = position_embeddings
        if step.rotary is None or step.rotary.source is not cos:
            step.rotary = Rotary.of(cos, sin, self._heads, self._scaling)
        return step.rotary


def _whole(parent: nn.Module, names: tuple[str, ...]) -> nn.Module:
    fused = parent.get_submodule(fused_name(names))
    assert isinstance(fused, FusedLinears)
    return fused.whole


def _function(linear: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return linear.multiply if isinstance(linear, RowLinear) else linear


def rms_norm(module: Any) -> Callable[[Tensor], Tensor]:
    """The layout's RMSNorm (Zhang and Sennrich, 2019), in few calls.

    On a CPU torch's own makes nine, with float32 twice as long as these four: with the width d,
    x / sqrt(mean(x ** 2) + epsilon) is x * sqrt(d) / hypot(norm(x), sqrt(d * epsilon)).
    """
    weight, epsilon = module.weight, module.variance_epsilon
    shape = tuple(weight.shape)

    def norm(x: Tensor) -> Tensor:
        return torch.rms_norm(x, shape, weight, epsilon)

    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return norm
    scaled = weight.detach() * shape[0] ** 0.5
    least = weight.new_tensor((shape[0] * epsilon) ** 0.5)

    def norm_by_length(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * scaled).div_(torch.hypot(length, least))

    return norm_by_length
