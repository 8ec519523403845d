"""Decoder layers of Llama's layout with few calls between the kernels.

A token's way through a small model is short enough for Python to matter, and for every view that is made
on the way. On a CPU kernels of ours do what is not a product (see `kernels.rowwise`). Elsewhere queries, keys
and values are turned together, by tables that hold the queries' scale and leave values as they are. Only the
forward functions of the layers are replaced; their modules and names stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from samovar_server.engine.attention import Settings, attend_rows
from samovar_server.engine.kernels import attention as kernel
from samovar_server.engine.kernels import rowwise
from samovar_server.engine.kernels.jit import Call, has_threads
from samovar_server.engine.kv_cache import SlotLayer
from samovar_server.engine.linear import SIBLINGS, FusedLinears, PanelLinear, RowLinear, fused_name
from samovar_server.engine.stack import Sizes, Stack, Workspace
from samovar_server.engine.step import Rotary, Step

LAYOUT = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"})
"""transformers' classes that are this layer, but for a bias and a window: norm, attention with rotary
positions over the whole head, norm, gated MLP, each with its residual."""


def make_lean(model: nn.Module) -> None:
    """Give the layers of `model` that have the layout a lean forward function.

    Their linear layers must be fused already; layers where that could not be done stay as they are.
    """
    lean = []
    for layer in model.modules():
        if type(layer).__name__ in LAYOUT and _is_fused(layer):
            layer.forward = LeanForward(layer)
            lean.append(layer.forward)
    _stack(model, lean)


def _stack(model: Any, layers: list[LeanForward]) -> None:
    """Have the first of the layers compute all of them where they are the whole model and alike."""
    sizes = {layer.sizes for layer in layers}
    if len(layers) != model.config.get_text_config().num_hidden_layers or len(sizes) != 1 or None in sizes:
        return
    (same,) = sizes
    assert same is not None
    stack = Stack(same, layers, {layer.settings.window for layer in layers})
    for layer in layers:
        layer.stack = stack


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
        self.settings = Settings(window, None, None)
        self.stack: Stack | None = None
        """All layers of the model, if the first of them computes all."""
        self._linears: list[Callable[[Tensor], Tensor]] = [
            _whole(attention, SIBLINGS[0]),
            attention.o_proj,
            _whole(mlp, SIBLINGS[1]),
            mlp.down_proj,
        ]
        self._products = [_function(linear) for linear in self._linears]
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._heads = [part.out_features // self._head_dim for part in parts]
        self._activation: nn.Module = mlp.act_fn
        self._norms = [layer.input_layernorm, layer.post_attention_layernorm]
        on_cpu = layer.input_layernorm.weight.device.type == "cpu"
        self._ours = on_cpu and layer.input_layernorm.weight.dtype == torch.float32
        self._is_silu = isinstance(self._activation, SiLUActivation | nn.SiLU)

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
        if self.stack is not None and not slot_step.adapted:
            if self._index == 0:
                x, cache = hidden_states[0], past_key_values
                slot_step.stacked = self.stack.run(x, slot_step, position_embeddings, cache)
            if slot_step.stacked:
                return hidden_states
        # The products alone know nothing of hooks.
        qkv, out, gate_up, down = self._linears if slot_step.adapted else self._products
        ours = self._ours and not slot_step.fused
        x = hidden_states[0]
        heads = qkv(self._norm(0, x, ours)).view(x.shape[0], -1, self._head_dim)
        cache = past_key_values.layers[self._index]
        query = self._place(heads, slot_step, position_embeddings, cache, ours)
        attended = attend_rows(query, cache.keys, cache.values, slot_step, self.settings)
        x.add_(out(attended.flatten(1)))
        x.add_(down(self._gate(gate_up(self._norm(1, x, ours)), ours)))
        return hidden_states

    @property
    def _panels(self) -> list[PanelLinear]:
        return [linear for linear in self._linears if isinstance(linear, PanelLinear) and not linear.missing]

    @property
    def sizes(self) -> Sizes | None:
        """The layer's sizes, if kernels of ours compute all of it: then it can be part of a stack."""
        ours = self._ours and has_threads() and self._is_silu
        if not ours or len(self._panels) < len(self._linears):
            return None
        down = self._panels[-1]
        queries, keys, _ = self._heads
        return Sizes(down.out_features, queries, keys, self._head_dim, down.in_features)

    def calls(self, workspace: Workspace, scores: Tensor, cache: SlotLayer) -> Sequence[Call]:
        """What the layer computes, for a stack."""
        of, (before, between) = workspace, self._norms
        qkv, out, gate_up, down = self._panels
        window = self.settings.window
        return (
            rowwise.norm_call(of.x, before.weight, before.variance_epsilon, of.normed),
            qkv.call(of.normed, of.heads.flatten(1)),
            rowwise.turn_call(of.heads, self._heads[0], of.cos, of.sin, self._scaling, of.places, cache),
            kernel.call(of.query, cache.keys, cache.values, of.parts, scores, of.attended, window),
            out.call(of.attended.flatten(1), of.added),
            rowwise.add_call(of.x, of.added),
            rowwise.norm_call(of.x, between.weight, between.variance_epsilon, of.normed),
            gate_up.call(of.normed, of.gate_up),
            rowwise.gated_call(of.gate_up, of.gated),
            down.call(of.gated, of.added),
            rowwise.add_call(of.x, of.added),
        )

    def _norm(self, index: int, x: Tensor, ours: bool) -> Tensor:
        module = self._norms[index]
        if ours:
            return rowwise.rms_norm(x, module.weight, module.variance_epsilon)
        return torch.rms_norm(x, tuple(module.weight.shape), module.weight, module.variance_epsilon)

    def _place(
        self,
        heads: Tensor,
        step: Step,
        position_embeddings: tuple[Tensor, Tensor],
        cache: SlotLayer,
        ours: bool,
    ) -> Tensor:
        """The queries of `heads`, at their positions; keys and values go to the cache."""
        if ours:
            cos, sin = (table[0] for table in position_embeddings)
            return rowwise.turn_and_keep(heads, self._heads[0], cos, sin, self._scaling, step, cache)
        turned = self._rotary(step, position_embeddings).turn(heads)
        query, key, value = turned.split_with_sizes(self._heads, 1)
        cache.write(step, key, value)
        return query

    def _gate(self, gate_up: Tensor, ours: bool) -> Tensor:
        if ours and self._is_silu:
            return rowwise.silu_gated(gate_up)
        gate, up = gate_up.chunk(2, -1)
        activated: Tensor = self._activation(gate)
        return activated.mul_(up)

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
