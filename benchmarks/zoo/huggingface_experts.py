"""Networks of transformers that are mixtures of experts, state spaces, or both."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.huggingface_text import GROUPED, HEADS, VOCABULARY, H, Row, build, tokens

_MOE = {**GROUPED, "num_local_experts": 4}

_EXPERTS: dict[str, Row] = {
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", _MOE),
    "minimax": ("MiniMaxForCausalLM", "MiniMaxConfig", {**_MOE, "head_dim": 16, "block_size": 4}),
    "glm4_moe": (
        "Glm4MoeForCausalLM",
        "Glm4MoeConfig",
        {
            **HEADS,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
        },
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {
            **HEADS,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "jamba": (
        "JambaForCausalLM",
        "JambaConfig",
        {
            **GROUPED,
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
        },
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        {
            **_MOE,
            "num_experts_per_tok": 2,
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
            "shared_intermediate_size": 64,
        },
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _MOE),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            **GROUPED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **H,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
        },
    ),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**_MOE, "head_dim": 16}),
    "olmoe": (
        "OlmoeForCausalLM",
        "OlmoeConfig",
        {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "granitemoe": (
        "GraniteMoeForCausalLM",
        "GraniteMoeConfig",
        {**_MOE, "num_experts_per_tok": 2},
    ),
    "jetmoe": (
        "JetMoeForCausalLM",
        "JetMoeConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 16,
            "intermediate_size": 128,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **HEADS,
            "intermediate_size_mlp": 128,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 1,
            "pad_token_id": 0,
        },
    ),
}
_STATE_SPACES: dict[str, Row] = {
    "falcon_h1": (
        "FalconH1ForCausalLM",
        "FalconH1Config",
        {
            **GROUPED,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_chunk_size": 16,
            "mamba_n_groups": 1,
        },
    ),
    "lfm2": (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {**GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2},
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 16,
            "state_size": 16,
            "n_groups": 1,
            "chunk_size": 16,
        },
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        {**GROUPED, "num_hidden_layers": 3, "lru_width": 64},
    ),
}


def entries() -> list[Entry]:
    """All of them, by name; transformers is imported when the first one is built."""
    experts = [
        Entry(
            f"transformers/{name}",
            partial(build, *row),
            tokens,
            "causal_lm",
            # The kernel that multiplies by all experts at once has no float64.
            exact=torch.float32,
            routed=True,
        )
        for name, row in _EXPERTS.items()
    ]
    return experts + [
        Entry(f"transformers/{name}", partial(build, *row), tokens, "causal_lm")
        for name, row in _STATE_SPACES.items()
    ]
