"""Networks of transformers that read tokens: encoders, decoders, encoder-decoders."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry

VOCABULARY = 300
H = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
}
GROUPED = {**H, "num_key_value_heads": 2}  # queries share keys and values
HEADS = {**GROUPED, "head_dim": 16}
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
    "xlnet": (
        "XLNetForSequenceClassification",
        "XLNetConfig",
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
    ),
    "squeezebert": (
        "SqueezeBertForSequenceClassification",
        "SqueezeBertConfig",
        {**H, "embedding_size": 64},
    ),
    "fnet": (
        "FNetForSequenceClassification",
        "FNetConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "intermediate_size": 128,
            "pad_token_id": 1,
        },
    ),
    "bert": ("BertForSequenceClassification", "BertConfig", H),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    ),
    "albert": (
        "AlbertForSequenceClassification",
        "AlbertConfig",
        {**H, "embedding_size": 32},
    ),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        {
            **H,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
        },
    ),
    "electra": (
        "ElectraForSequenceClassification",
        "ElectraConfig",
        {**H, "embedding_size": 32},
    ),
    "modernbert": (
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        {**H, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1},
    ),
}
_MASKED: dict[str, Row] = {
    "perceiver": (
        "PerceiverForMaskedLM",
        "PerceiverConfig",
        {
            "d_model": 64,
            "d_latents": 64,
            "num_latents": 8,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 16,
        },
    ),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**H, "max_position_embeddings": 64}),
    "mpnet": ("MPNetForMaskedLM", "MPNetConfig", {**H, "max_position_embeddings": 64}),
    "esm": (
        "EsmForMaskedLM",
        "EsmConfig",
        {**H, "pad_token_id": 1, "mask_token_id": 2, "position_embedding_type": "rotary"},
    ),
}
_CAUSAL: dict[str, Row] = {
    "gpt_bigcode": (
        "GPTBigCodeForCausalLM",
        "GPTBigCodeConfig",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 16},
    ),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 32,
            "vocab_size": VOCABULARY,
            "expansion_ratio": 2,
        },
    ),
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
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", H),
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
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", HEADS),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", HEADS),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", HEADS),
    "phi": ("PhiForCausalLM", "PhiConfig", H),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**GROUPED, "pad_token_id": 0}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", GROUPED),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", GROUPED),
    "granite": ("GraniteForCausalLM", "GraniteConfig", GROUPED),
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


def _perceived(n: int) -> dict[str, Tensor]:
    return {"inputs": torch.randint(3, VOCABULARY, (n, 16))}


def _pairs(n: int) -> dict[str, Tensor]:
    return {**tokens(n), "decoder_input_ids": torch.randint(3, VOCABULARY, (n, 8))}


def entries() -> list[Entry]:
    """All of them, by name; transformers is imported when the first one is built."""
    groups = [
        (_CLASSIFIERS, tokens, "sequence_classification"),
        (_MASKED, tokens, "masked_lm"),
        (_CAUSAL, tokens, "causal_lm"),
        (_SEQ2SEQ, _pairs, "seq2seq"),
    ]
    return [
        Entry(
            f"transformers/{name}",
            partial(build, *row),
            _perceived if name == "perceiver" else batch,
            task,
            routed=name == "switch_transformers",
        )
        for rows, batch, task in groups
        for name, row in rows.items()
    ]
