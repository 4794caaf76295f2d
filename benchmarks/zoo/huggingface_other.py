"""Networks of transformers that read sound, series, videos, or two kinds of input at once."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.huggingface_images import BLOCKS, IMAGES, Row, made, pixels
from benchmarks.zoo.huggingface_text import VOCABULARY, tokens
from pipeline.lowrank.tasks import Custom, Task

_WAVES = {
    **BLOCKS,
    "vocab_size": 40,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


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
    return {**tokens(n), **pixels(32)(n)}


def _image_in_text(n: int) -> dict[str, Tensor]:
    """Each image stands in the text as 16 tokens of its own."""
    places = torch.full((n, 16), 2)
    text = torch.randint(3, VOCABULARY, (n, 8))
    return {"input_ids": torch.cat([places, text], 1), **pixels(32)(n)}


def _video(n: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(n, 4, 3, 32, 32)}


def _mono(n: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(n, 1, 320)}


_ROWS: dict[str, Row] = {
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 16},
            "vision_config": IMAGES,
            "projection_dim": 32,
        },
        _images_and_text,
    ),
    "siglip": (
        "SiglipModel",
        "SiglipConfig",
        {
            "text_config": {**BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 16},
            "vision_config": IMAGES,
        },
        _images_and_text,
    ),
    "vilt": (
        "ViltForQuestionAnswering",
        "ViltConfig",
        {**IMAGES, "vocab_size": VOCABULARY, "max_image_length": -1},
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
                **BLOCKS,
            },
            "vision_config": {"model_type": "clip_vision_model", **IMAGES},
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
        {**IMAGES, "num_frames": 4},
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
            **BLOCKS,
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
    return made(_ROWS, _TASKS)
