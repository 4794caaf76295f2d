"""Networks of transformers that read images, sound, series, or two kinds of input at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.huggingface_text import VOCABULARY, build, tokens
from pipeline.lowrank.tasks import Custom, Task

_BLOCKS = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_IMAGES = {**_BLOCKS, "image_size": 32, "patch_size": 8}
_WAVES = {
    **_BLOCKS,
    "vocab_size": 40,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_RESNET = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
}
_DETR = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_queries": 8,
    "backbone_config": {"model_type": "resnet", **_RESNET, "out_features": ["stage4"]},
}


def _pixels(size: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda n: {"pixel_values": torch.randn(n, 3, size, size)}


def _waves(n: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(n, 2000)}


def _spectrogram(n: int) -> dict[str, Tensor]:
    return {
        "input_features": torch.randn(n, 16, 64),
        "decoder_input_ids": torch.randint(3, VOCABULARY, (n, 8)),
    }


def _bands(n: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(n, 64, 16)}


def _series(n: int) -> dict[str, Tensor]:
    return {"past_values": torch.randn(n, 32, 3)}


def _images_and_text(n: int) -> dict[str, Tensor]:
    return {**tokens(n), **_pixels(32)(n)}


def _image_in_text(n: int) -> dict[str, Tensor]:
    """Each image stands in the text as 16 tokens of its own."""
    places = torch.full((n, 16), 2)
    text = torch.randint(3, VOCABULARY, (n, 8))
    return {"input_ids": torch.cat([places, text], 1), **_pixels(32)(n)}


def _video(n: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(n, 4, 3, 32, 32)}


def _mono(n: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(n, 1, 320)}


# {name: (class, class of its configuration, arguments, what it takes)}
_ROWS: dict[str, tuple[str, str, Mapping[str, Any], Callable[[int], dict[str, Tensor]]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGES, _pixels(32)),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _IMAGES, _pixels(32)),
    "dinov2": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {**_BLOCKS, "image_size": 32, "patch_size": 8},
        _pixels(32),
    ),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 64,
            "patch_size": 4,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        _pixels(64),
    ),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", _RESNET, _pixels(32)),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        _pixels(32),
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [32, 64],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 64,
            "num_labels": 10,
        },
        _pixels(64),
    ),
    "yolos": (
        "YolosForObjectDetection",
        "YolosConfig",
        {**_IMAGES, "image_size": [32, 32], "num_detection_tokens": 8},
        _pixels(32),
    ),
    "detr": ("DetrForObjectDetection", "DetrConfig", _DETR, _pixels(64)),
    "vit_mae": (
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {
            **_IMAGES,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
        _pixels(32),
    ),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**_BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 16},
            "vision_config": _IMAGES,
            "projection_dim": 32,
        },
        _images_and_text,
    ),
    "siglip": (
        "SiglipModel",
        "SiglipConfig",
        {
            "text_config": {**_BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 16},
            "vision_config": _IMAGES,
        },
        _images_and_text,
    ),
    "vilt": (
        "ViltForQuestionAnswering",
        "ViltConfig",
        {**_IMAGES, "vocab_size": VOCABULARY, "max_image_length": -1},
        _images_and_text,
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": {
                "model_type": "llama",
                "vocab_size": VOCABULARY,
                "num_key_value_heads": 2,
                **_BLOCKS,
            },
            "vision_config": {"model_type": "clip_vision_model", **_IMAGES},
            "image_token_index": 2,
            "image_seq_length": 16,
            # All layers of the tower are read, so that all are reached.
            "vision_feature_layer": -1,
        },
        _image_in_text,
    ),
    "videomae": (
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        {**_IMAGES, "num_frames": 4},
        _video,
    ),
    "encodec": (
        "EncodecModel",
        "EncodecConfig",
        {
            "num_filters": 8,
            "hidden_size": 32,
            "codebook_size": 16,
            "upsampling_ratios": [4, 2],
            "num_lstm_layers": 1,
            "sampling_rate": 1600,
            "target_bandwidths": [1.5],
        },
        _mono,
    ),
    "wavlm": ("WavLMForCTC", "WavLMConfig", _WAVES, _waves),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _WAVES, _waves),
    "hubert": ("HubertForCTC", "HubertConfig", _WAVES, _waves),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
        },
        _spectrogram,
    ),
    "audio_spectrogram_transformer": (
        "ASTForAudioClassification",
        "ASTConfig",
        {
            **_BLOCKS,
            "patch_size": 8,
            "num_mel_bins": 16,
            "max_length": 64,
            "frequency_stride": 8,
            "time_stride": 8,
        },
        _bands,
    ),
    "patchtst": (
        "PatchTSTForClassification",
        "PatchTSTConfig",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 128,
            "num_targets": 5,
        },
        _series,
    ),
}

# {name: what it predicts}; the others classify.
_TASKS: dict[str, Task | str] = {
    "segformer": "segmentation",
    "yolos": Custom(output=["logits", "pred_boxes"]),
    "detr": Custom(output=["logits", "pred_boxes"]),
    "vit_mae": Custom(output="logits"),
    "clip": Custom(output=["image_embeds", "text_embeds"]),
    "siglip": Custom(output=["image_embeds", "text_embeds"]),
    "llava": "causal_lm",
    "encodec": Custom(output="audio_values"),
    "wavlm": "token_classification",
    "wav2vec2": "token_classification",
    "hubert": "token_classification",
    "whisper": "seq2seq",
    "patchtst": Custom(output="prediction_logits"),
}


def entries() -> list[Entry]:
    """All of them, by name; transformers is imported when the first one is built."""
    return [
        Entry(
            f"transformers/{name}",
            partial(build, cls, config, given),
            batch,
            _TASKS.get(name, "classification"),
        )
        for name, (cls, config, given, batch) in _ROWS.items()
    ]
