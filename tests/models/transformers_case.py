"""Transformers small enough for tests, made here from configurations, and text for them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

WORDS = [
    *("the", "river", "stone", "carried", "a", "small", "boat", "under", "grey", "light", "and"),
    *("old", "house", "stood", "near", "water", "while", "people", "walked", "home", "slowly"),
]
VOCABULARY = 300


def sentence(generator: random.Random, words: int = 12) -> str:
    return " ".join(generator.choices(WORDS, k=words)).capitalize() + "."


def chapters(count: int, paragraphs: int = 12, seed: int = 0) -> list[str]:
    """Texts of paragraphs; the last sentence of a chapter names it."""
    generator = random.Random(seed)
    return [
        "\n\n".join(
            [*(sentence(generator, 24) for _ in range(paragraphs)), f"So ended chapter {n}."]
        )
        for n in range(count)
    ]


def write_book(path: Path, count: int = 12, seed: int = 0) -> Path:
    """A .txt file with a form feed between the chapters."""
    path.write_text("\n\f\n".join(chapters(count, seed=seed)))
    return path


def write_tokenizer(folder: Path) -> Any:
    """A byte-level BPE, trained on `chapters`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chapters(4), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.save_pretrained(folder)
    return fast


def write_model(folder: Path, task: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A transformer of the task with random weights and a tokenizer, in transformers' format:
    a Llama with tied embeddings and grouped queries, a T5, a Segformer, a ViT, or a BERT."""
    import transformers

    torch.manual_seed(seed)
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "initializer_range": 0.3,  # or two layers hardly mix their tokens
    }
    if task == "causal_lm":
        config = transformers.LlamaConfig(
            **common, num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=1
        )
        model = transformers.LlamaForCausalLM(config)
    elif task == "seq2seq":
        config = transformers.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
            pad_token_id=0, decoder_start_token_id=0,
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
    elif task == "segmentation":
        config = transformers.SegformerConfig(
            num_channels=1, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
            hidden_sizes=[16, 32], patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2],
            mlp_ratios=[2, 2], decoder_hidden_size=32, num_labels=3,
        )  # fmt: skip
        model = transformers.SegformerForSemanticSegmentation(config)
    elif task == "classification":
        config = transformers.ViTConfig(
            image_size=16, patch_size=4, num_channels=1, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=48, num_labels=3,
        )  # fmt: skip
        model = transformers.ViTForImageClassification(config)
    else:
        head = {
            "encoder": "BertModel",
            "masked_lm": "BertForMaskedLM",
            "token_classification": "BertForTokenClassification",
            "custom": "BertForQuestionAnswering",
        }.get(task, "BertForSequenceClassification")
        labels = 2 if task == "custom" else 3  # where an answer starts and ends
        config = transformers.BertConfig(**common, num_labels=labels)
        model = getattr(transformers, head)(config)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_gguf(path: Path, model: Any, tokenizer: Any) -> None:
    """The Llama `model` as llama.cpp stores it: queries and keys with their halves interleaved,
    matrices of 32 columns in 8 bits, all else in float32."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(backend["vocab"], key=backend["vocab"].__getitem__))
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        array = weight.numpy()
        for key, count in heads.items():
            if key in name:
                halves = array.reshape(count, 2, -1, array.shape[1])
                array = halves.swapaxes(1, 2).reshape(array.shape)
        quantised = array.ndim == 2 and array.shape[1] == 32 and "embed" not in name
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(array, kind)
        writer.add_tensor(names.get_name(name, (".weight",)), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
