"""Classes of timm that are called by themselves: their entry points fix what has to be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEPTHS, WIDTHS, HEADS = (1, 1, 1, 1), (16, 32, 48, 64), (1, 2, 3, 4)
PATCHES = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2}
_MIXER = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_blocks": 2}
_MLP = "timm.models.mlp_mixer"

# {name: (side of the images, class, its arguments)}
CLASSES: dict[str, tuple[int, str, Mapping[str, Any]]] = {
    "densenet": (
        32,
        "timm.models.densenet.DenseNet",
        {"growth_rate": 16, "block_config": (2, 2, 2, 2)},
    ),
    "convmixer": (
        32,
        "timm.models.convmixer.ConvMixer",
        {"dim": 48, "depth": 2, "kernel_size": 3, "patch_size": 4},
    ),
    "rexnet": (
        32,
        "timm.models.rexnet.RexNet",
        {"width_mult": 0.5, "initial_chs": 8, "final_chs": 60},
    ),
    "focalnet": (32, "timm.models.focalnet.FocalNet", {"depths": DEPTHS, "embed_dim": 16}),
    "poolformer": (
        32,
        "timm.models.metaformer.MetaFormer",
        {"depths": DEPTHS, "dims": WIDTHS},
    ),
    "inception_next": (
        32,
        "timm.models.inception_next.MetaNeXt",
        {"depths": DEPTHS, "dims": WIDTHS},
    ),
    "edgenext": (
        32,
        "timm.models.edgenext.EdgeNeXt",
        {"dims": (24, 48, 88, 168), "depths": DEPTHS},
    ),
    "repvit": (32, "timm.models.repvit.RepVit", {"embed_dim": (16, 32), "depth": (1, 1)}),
    "swiftformer": (
        64,
        "timm.models.swiftformer.SwiftFormer",
        {"layers": DEPTHS, "embed_dims": WIDTHS},
    ),
    "visformer": (
        32,
        "timm.models.visformer.Visformer",
        {
            "img_size": 32,
            "init_channels": 16,
            "embed_dim": 96,
            "depth": (1, 1, 1),
            "num_heads": 4,
            "group": 4,
            "attn_stage": "011",
            "spatial_conv": "100",
        },
    ),
    "mlp_mixer": (32, f"{_MLP}.MlpMixer", _MIXER),
    "resmlp": (
        32,
        f"{_MLP}.MlpMixer",
        {
            **_MIXER,
            "mlp_ratio": 4,
            "block_layer": f"{_MLP}.ResBlock",
            "norm_layer": f"{_MLP}.Affine",
        },
    ),
    "gmlp": (
        32,
        f"{_MLP}.MlpMixer",
        {
            **_MIXER,
            "mlp_ratio": 4,
            "block_layer": f"{_MLP}.SpatialGatingBlock",
            "mlp_layer": "timm.layers.GatedMlp",
        },
    ),
    "vit_relpos": (
        32,
        "timm.models.vision_transformer_relpos.VisionTransformerRelPos",
        {**PATCHES, "num_heads": 3},
    ),
    "convit": (
        32,
        "timm.models.convit.ConVit",
        {**PATCHES, "num_heads": 4, "local_up_to_layer": 1},
    ),
    "tnt": (
        32,
        "timm.models.tnt.TNT",
        {**PATCHES, "inner_dim": 16, "num_heads_inner": 2, "num_heads_outer": 4},
    ),
    "pvt_v2": (
        32,
        "timm.models.pvt_v2.PyramidVisionTransformerV2",
        {"depths": DEPTHS, "embed_dims": WIDTHS, "num_heads": HEADS},
    ),
    "twins_svt": (
        32,
        "timm.models.twins.Twins",
        {
            "img_size": 32,
            "embed_dims": WIDTHS,
            "num_heads": HEADS,
            "depths": DEPTHS,
            "sr_ratios": (4, 2, 1, 1),
            "wss": (2, 2, 2, 1),
        },
    ),
    "tiny_vit": (
        32,
        "timm.models.tiny_vit.TinyVit",
        {
            "embed_dims": WIDTHS,
            "depths": DEPTHS,
            "num_heads": HEADS,
            "window_sizes": (4, 4, 4, 4),
        },
    ),
    "volo": (
        32,
        "timm.models.volo.VOLO",
        {
            "layers": (1, 1),
            "img_size": 32,
            "embed_dims": (32, 64),
            "num_heads": (2, 4),
            "mlp_ratio": 2,
            "downsamples": (True, False),
            "outlook_attention": (True, False),
            "patch_size": 4,
        },
    ),
    "nest": (
        32,
        "timm.models.nest.Nest",
        {
            "img_size": 32,
            "patch_size": 4,
            "num_levels": 2,
            "embed_dims": (32, 48),
            "num_heads": (2, 3),
            "depths": (1, 1),
        },
    ),
    "hiera": (
        32,
        "timm.models.hiera.Hiera",
        {"img_size": (32, 32), "embed_dim": 32, "num_heads": 1, "stages": (1, 1, 1), "q_pool": 2},
    ),
}
