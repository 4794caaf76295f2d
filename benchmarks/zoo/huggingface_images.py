"""Networks of transformers that read images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.huggingface_text import build
from pipeline.lowrank.tasks import Custom, Task

BLOCKS = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
IMAGES = {**BLOCKS, "image_size": 32, "patch_size": 8}
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


def pixels(size: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda n: {"pixel_values": torch.randn(n, 3, size, size)}


# Class, class of its configuration, arguments, what it takes.
Row = tuple[str, str, Mapping[str, Any], Callable[[int], dict[str, Tensor]]]

_ROWS: dict[str, Row] = {
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGES, pixels(32)),
    "deit": ("DeiTForImageClassification", "DeiTConfig", IMAGES, pixels(32)),
    "dinov2": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {**BLOCKS, "image_size": 32, "patch_size": 8},
        pixels(32),
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
        pixels(64),
    ),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", _RESNET, pixels(32)),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        pixels(32),
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
        pixels(64),
    ),
    "yolos": (
        "YolosForObjectDetection",
        "YolosConfig",
        {**IMAGES, "image_size": [32, 32], "num_detection_tokens": 8},
        pixels(32),
    ),
    "detr": ("DetrForObjectDetection", "DetrConfig", _DETR, pixels(64)),
    "vit_mae": (
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {
            **IMAGES,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
        pixels(32),
    ),
}
# {name: what it predicts}; the others classify.
_TASKS: dict[str, Task | str] = {
    "segformer": "segmentation",
    "yolos": Custom(output=["logits", "pred_boxes"]),
    "detr": Custom(output=["logits", "pred_boxes"]),
    "vit_mae": Custom(output="logits"),
}


def made(rows: Mapping[str, Row], tasks: Mapping[str, Task | str]) -> list[Entry]:
    """Entries of rows; those without a task classify."""
    return [
        Entry(
            f"transformers/{name}",
            partial(build, cls, config, given),
            batch,
            tasks.get(name, "classification"),
        )
        for name, (cls, config, given, batch) in rows.items()
    ]


def entries() -> list[Entry]:
    """All of them, by name; transformers is imported when the first one is built."""
    return made(_ROWS, _TASKS)
