"""Networks of timm: convolutional, attention, mixers; each as small as its class allows.

Most are made by timm's entry points with widths and depths cut; classes are called by themselves
where an entry point fixes what has to be cut.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoo.entry import Entry, images

CLASSES = 10
_DEPTHS, _WIDTHS, _HEADS = (1, 1, 1, 1), (16, 32, 48, 64), (1, 2, 3, 4)
_RESNET = {"layers": _DEPTHS, "channels": _WIDTHS}
_PATCHES = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2}
_WINDOWS = {
    "img_size": 32,
    "window_size": 4,
    "embed_dim": 24,
    "depths": (1, 1),
    "num_heads": (2, 4),
    "patch_size": 2,
}
_MIXER = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_blocks": 2}
_MLP = "timm.models.mlp_mixer"

# {entry point of timm: (side of the images, its arguments)}
_MODELS: dict[str, tuple[int, Mapping[str, Any]]] = {
    # Convolutional networks.
    "resnet18": (32, {**_RESNET, "stem_width": 16}),
    "resnext50_32x4d": (32, {**_RESNET, "cardinality": 8, "base_width": 16}),
    "seresnet18": (32, _RESNET),
    "skresnet18": (32, _RESNET),
    "resnest14d": (32, _RESNET),
    "res2net50_14w_8s": (32, {**_RESNET, "base_width": 8}),
    "convnext_atto": (32, {"depths": _DEPTHS, "dims": _WIDTHS}),
    "convnextv2_atto": (32, {"depths": _DEPTHS, "dims": _WIDTHS}),
    "mobilenetv2_035": (32, {}),
    "mobilenetv3_small_050": (32, {}),
    "tf_mobilenetv3_small_075": (32, {}),
    "mobilenetv4_conv_small_035": (32, {}),
    "mnasnet_small": (32, {}),
    "regnetx_002": (32, {}),
    "regnety_002": (32, {}),
    "dla46_c": (32, {}),
    "ese_vovnet19b_slim_dw": (32, {}),
    "ghostnet_050": (32, {}),
    "starnet_s050": (32, {}),
    "efficientvit_b0": (32, {}),
    "mobilevit_xxs": (32, {}),
    # Attention.
    "vit_tiny_patch16_224": (32, {**_PATCHES, "num_heads": 3}),
    "deit_tiny_distilled_patch16_224": (32, {**_PATCHES, "num_heads": 3}),
    "cait_xxs24_224": (32, {**_PATCHES, "num_heads": 4}),
    "beit_base_patch16_224": (32, {**_PATCHES, "num_heads": 4}),
    "eva02_tiny_patch14_224": (32, {**_PATCHES, "num_heads": 4}),
    "xcit_nano_12_p16_224": (32, {**_PATCHES, "num_heads": 4}),
    "swin_tiny_patch4_window7_224": (32, _WINDOWS),
    "swinv2_tiny_window8_256": (32, _WINDOWS),
    "swinv2_cr_tiny_224": (32, _WINDOWS),
    "davit_tiny": (32, {"depths": _DEPTHS, "embed_dims": _WIDTHS, "num_heads": _HEADS}),
}

# {name: (side of the images, class, its arguments)}
_CLASSES: dict[str, tuple[int, str, Mapping[str, Any]]] = {
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
    "focalnet": (32, "timm.models.focalnet.FocalNet", {"depths": _DEPTHS, "embed_dim": 16}),
    "poolformer": (
        32,
        "timm.models.metaformer.MetaFormer",
        {"depths": _DEPTHS, "dims": _WIDTHS},
    ),
    "inception_next": (
        32,
        "timm.models.inception_next.MetaNeXt",
        {"depths": _DEPTHS, "dims": _WIDTHS},
    ),
    "edgenext": (
        32,
        "timm.models.edgenext.EdgeNeXt",
        {"dims": (24, 48, 88, 168), "depths": _DEPTHS},
    ),
    "repvit": (32, "timm.models.repvit.RepVit", {"embed_dim": (16, 32), "depth": (1, 1)}),
    "swiftformer": (
        64,
        "timm.models.swiftformer.SwiftFormer",
        {"layers": _DEPTHS, "embed_dims": _WIDTHS},
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
        {**_PATCHES, "num_heads": 3},
    ),
    "convit": (
        32,
        "timm.models.convit.ConVit",
        {**_PATCHES, "num_heads": 4, "local_up_to_layer": 1},
    ),
    "tnt": (
        32,
        "timm.models.tnt.TNT",
        {**_PATCHES, "inner_dim": 16, "num_heads_inner": 2, "num_heads_outer": 4},
    ),
    "pvt_v2": (
        32,
        "timm.models.pvt_v2.PyramidVisionTransformerV2",
        {"depths": _DEPTHS, "embed_dims": _WIDTHS, "num_heads": _HEADS},
    ),
    "twins_svt": (
        32,
        "timm.models.twins.Twins",
        {
            "img_size": 32,
            "embed_dims": _WIDTHS,
            "num_heads": _HEADS,
            "depths": _DEPTHS,
            "sr_ratios": (4, 2, 1, 1),
            "wss": (2, 2, 2, 1),
        },
    ),
    "tiny_vit": (
        32,
        "timm.models.tiny_vit.TinyVit",
        {
            "embed_dims": _WIDTHS,
            "depths": _DEPTHS,
            "num_heads": _HEADS,
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
# Of these an argument is an object of timm's configuration: {name: (class, configuration, its
# arguments, arguments of the class)}.
_CONFIGURED: dict[str, tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = {
    "nf_resnet": (
        "timm.models.nfnet.NormFreeNet",
        "timm.models.nfnet.NfCfg",
        {"depths": _DEPTHS, "channels": (32, 48, 64, 96), "stem_chs": 16, "group_size": 8},
        {},
    ),
    "mvitv2": (
        "timm.models.mvitv2.MultiScaleVit",
        "timm.models.mvitv2.MultiScaleVitCfg",
        {"depths": (1, 1), "embed_dim": 32},
        {"img_size": (32, 32)},
    ),
    "naflexvit": (
        "timm.models.naflexvit.NaFlexVit",
        "timm.models.naflexvit.NaFlexVitCfg",
        {
            "patch_size": 8,
            "embed_dim": 48,
            "depth": 2,
            "num_heads": 3,
            "pos_embed_grid_size": (4, 4),
        },
        {},
    ),
}


def _model(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, num_classes=CLASSES, **arguments)
    return model


def _class(path: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The class at this path with its arguments, of which those that are paths are resolved."""
    given = {k: _resolved(v) for k, v in arguments.items()}
    model: nn.Module = pkgutil.resolve_name(path)(num_classes=CLASSES, **given)
    return model


def _resolved(value: Any) -> Any:
    named = isinstance(value, str) and value.startswith("timm.")
    return pkgutil.resolve_name(value) if named else value


def _configured(
    path: str, cfg: str, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> nn.Module:
    made = pkgutil.resolve_name(cfg)(**options)
    model: nn.Module = pkgutil.resolve_name(path)(made, num_classes=CLASSES, **arguments)
    return model


def entries() -> list[Entry]:
    """All networks of timm, by name; nothing is imported before one is built."""
    made = [
        *((name, size, partial(_model, name, given)) for name, (size, given) in _MODELS.items()),
        *(
            (name, size, partial(_class, path, given))
            for name, (size, path, given) in _CLASSES.items()
        ),
        *((name, 32, partial(_configured, *given)) for name, given in _CONFIGURED.items()),
    ]
    return [Entry(f"timm/{name}", make, images(size)) for name, size, make in made]
