"""Random models of many architectures, of a few thousand weights, written to folders as real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from samovar_server.engine import attention
from samovar_server.loader.spec import WorkerSpec

VOCABULARY = 256
WINDOW = 40
"""Of the models with a sliding window."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def _like_llama(model_type: str, **different: Any) -> tuple[str, dict[str, Any]]:
    return model_type, _COMMON | different


IN_SLOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": _like_llama("llama"),
    "qwen2": _like_llama("qwen2"),
    "qwen2-window": _like_llama("qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": _like_llama("qwen3", head_dim=16),
    "gemma2": _like_llama(
        "gemma2",
        head_dim=16,
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    ),
    "gemma3": _like_llama(
        "gemma3_text", head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=16, num_hidden_layers=6
    ),
    # Gemma 3 from 4B on: the same with eyes, which text does not use.
    "gemma3-vision": (
        "gemma3",
        {
            "text_config": _COMMON | {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
            "boi_token_index": VOCABULARY - 3,
            "eoi_token_index": VOCABULARY - 2,
            "image_token_index": VOCABULARY - 1,
        },
    ),
    # The last two layers read the keys and values of earlier ones.
    "gemma3n": _like_llama(
        "gemma3n_text",
        head_dim=16,
        sliding_window=WINDOW,
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        intermediate_size=[96] * 4,
        activation_sparsity_pattern=[0.0] * 4,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        laurel_rank=8,
    ),
    "mistral": _like_llama("mistral", head_dim=16, sliding_window=WINDOW),
    "phi": _like_llama("phi"),
    "phi3": _like_llama("phi3"),
    "gpt2": ("gpt2", _GPT2),
    "gpt-neox": _like_llama("gpt_neox"),
    "opt": _like_llama("opt", ffn_dim=96, word_embed_proj_dim=64),
    # Latent attention: keys and values differ in width.
    "deepseek-v3": _like_llama(
        "deepseek_v3",
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=32,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        first_k_dense_replace=1,
    ),
    # Attention sinks; experts with biases and transposed weights.
    "gpt-oss": _like_llama(
        "gpt_oss",
        head_dim=16,
        sliding_window=WINDOW,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "mixtral": _like_llama("mixtral", num_local_experts=4, sliding_window=WINDOW),
    "qwen2-moe": _like_llama("qwen2_moe", shared_expert_intermediate_size=48, **_EXPERTS),
    "qwen3-moe": _like_llama("qwen3_moe", head_dim=16, **_EXPERTS),
}

FALLBACK: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": (
        "mamba",
        {key: _COMMON[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")} | {"state_size": 8},
    ),
    "jamba": _like_llama(
        "jamba",
        num_experts=2,
        mamba_d_state=8,
        attn_layer_period=3,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
    ),
    "bamba": _like_llama(
        "bamba", attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=8
    ),
    "falcon": _like_llama("falcon", alibi=True, new_decoder_architecture=False, multi_query=False),
    # Leaves its sliding window to the mask, which only a look at what attention was asked for shows.
    "qwen2-moe-window": _like_llama(
        "qwen2_moe",
        shared_expert_intermediate_size=48,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=1,
        **_EXPERTS,
    ),
}


def tiny(name: str, **different: Any) -> Any:
    """A model of above with the engine's attention, as a load has it before its layers are replaced."""
    torch.manual_seed(0)
    attention.register()
    model_type, fields = IN_SLOTS[name]
    config = AutoConfig.for_model(model_type, **fields | different)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    return model.eval().requires_grad_(False)


def write(folder: Path, name: str) -> WorkerSpec:
    """Write the model `name` of above, with a tokenizer; returns what a worker would be told to load it."""
    model_type, fields = (IN_SLOTS | FALLBACK)[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # else the logits are so flat that every token is followed by itself
    model.save_pretrained(folder)
    words = {f"w{token}": token for token in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    return WorkerSpec(str(folder), name, "cpu", "float32", "none", None, 8, 100, "secret")
