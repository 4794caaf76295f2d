"""Networks of transformers that read tokens: dense, mixtures of experts, encoder-decoders, state
spaces."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry

VOCABULARY = 300
_H = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
}
_GROUPED = {**_H, "num_key_value_heads": 2}  # queries share keys and values
_HEADS = {**_GROUPED, "head_dim": 16}
_MOE = {**_GROUPED, "num_local_experts": 4}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}

Row = tuple[str, str, Mapping[str, Any]]  # class, class of its configuration, arguments

_CLASSIFIERS: dict[str, Row] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _H),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    ),
    "albert": (
        "AlbertForSequenceClassification",
        "AlbertConfig",
        {**_H, "embedding_size": 32},
    ),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        {
            **_H,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
        },
    ),
    "electra": (
        "ElectraForSequenceClassification",
        "ElectraConfig",
        {**_H, "embedding_size": 32},
    ),
    "modernbert": (
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        {**_H, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1},
    ),
}
_MASKED: dict[str, Row] = {
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**_H, "max_position_embeddings": 64}),
    "mpnet": ("MPNetForMaskedLM", "MPNetConfig", {**_H, "max_position_embeddings": 64}),
    "esm": (
        "EsmForMaskedLM",
        "EsmConfig",
        {**_H, "pad_token_id": 1, "mask_token_id": 2, "position_embedding_type": "rotary"},
    ),
}
_CAUSAL: dict[str, Row] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "gptj": (
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _H),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "ffn_dim": 128,
            "num_attention_heads": 4,
            "max_position_embeddings": 16,
            "word_embed_proj_dim": 64,
        },
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    ),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", _GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _HEADS),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _HEADS),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _HEADS),
    "phi": ("PhiForCausalLM", "PhiConfig", _H),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**_GROUPED, "pad_token_id": 0}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _GROUPED),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", _GROUPED),
    "granite": ("GraniteForCausalLM", "GraniteConfig", _GROUPED),
}
_EXPERTS: dict[str, Row] = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _MOE),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            **_GROUPED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **_H,
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
        {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
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
            **_HEADS,
            "intermediate_size_mlp": 128,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 1,
            "pad_token_id": 0,
        },
    ),
}
_STATE_SPACES: dict[str, Row] = {
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
        {**_GROUPED, "num_hidden_layers": 3, "lru_width": 64},
    ),
}
_SEQ2SEQ: dict[str, Row] = {
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "flan_t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "switch_transformers": (
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        {**_T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", _BART),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", _BART),
}


def build(cls: str, config: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network of transformers with random weights."""
    import transformers

    made = getattr(transformers, config)(**arguments)
    model: nn.Module = getattr(transformers, cls)(made)
    return model


def tokens(n: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, VOCABULARY, (n, 12))}


def _pairs(n: int) -> dict[str, Tensor]:
    return {**tokens(n), "decoder_input_ids": torch.randint(3, VOCABULARY, (n, 8))}


def entries() -> list[Entry]:
    """All of them, by name; transformers is imported when the first one is built."""
    groups = [
        (_CLASSIFIERS, tokens, "sequence_classification"),
        (_MASKED, tokens, "masked_lm"),
        (_CAUSAL, tokens, "causal_lm"),
        (_EXPERTS, tokens, "causal_lm"),
        (_STATE_SPACES, tokens, "causal_lm"),
        (_SEQ2SEQ, _pairs, "seq2seq"),
    ]
    return [
        Entry(
            f"transformers/{name}",
            partial(build, *row),
            batch,
            task,
            # The kernel that multiplies by all experts at once has no float64.
            exact=torch.float32 if rows is _EXPERTS else torch.float64,
            routed=rows is _EXPERTS or name == "switch_transformers",
        )
        for rows, batch, task in groups
        for name, row in rows.items()
    ]
