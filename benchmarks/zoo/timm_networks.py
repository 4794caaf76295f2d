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
from benchmarks.zoo.timm_classes import CLASSES, DEPTHS, HEADS, PATCHES, WIDTHS

OUTPUTS = 10  # classes
_RESNET = {"layers": DEPTHS, "channels": WIDTHS}
_WINDOWS = {
    "img_size": 32,
    "window_size": 4,
    "embed_dim": 24,
    "depths": (1, 1),
    "num_heads": (2, 4),
    "patch_size": 2,
}
# {entry point of timm: (side of the images, its arguments)}
_MODELS: dict[str, tuple[int, Mapping[str, Any]]] = {
    # Convolutional networks.
    "resnet18": (32, {**_RESNET, "stem_width": 16}),
    "resnext50_32x4d": (32, {**_RESNET, "cardinality": 8, "base_width": 16}),
    "seresnet18": (32, _RESNET),
    "skresnet18": (32, _RESNET),
    "resnest14d": (32, _RESNET),
    "res2net50_14w_8s": (32, {**_RESNET, "base_width": 8}),
    "convnext_atto": (32, {"depths": DEPTHS, "dims": WIDTHS}),
    "convnextv2_atto": (32, {"depths": DEPTHS, "dims": WIDTHS}),
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
    "vit_tiny_patch16_224": (32, {**PATCHES, "num_heads": 3}),
    "deit_tiny_distilled_patch16_224": (32, {**PATCHES, "num_heads": 3}),
    "cait_xxs24_224": (32, {**PATCHES, "num_heads": 4}),
    "beit_base_patch16_224": (32, {**PATCHES, "num_heads": 4}),
    "eva02_tiny_patch14_224": (32, {**PATCHES, "num_heads": 4}),
    "xcit_nano_12_p16_224": (32, {**PATCHES, "num_heads": 4}),
    "swin_tiny_patch4_window7_224": (32, _WINDOWS),
    "swinv2_tiny_window8_256": (32, _WINDOWS),
    "swinv2_cr_tiny_224": (32, _WINDOWS),
    "davit_tiny": (32, {"depths": DEPTHS, "embed_dims": WIDTHS, "num_heads": HEADS}),
}

# Of these an argument is an object of timm's configuration: {name: (class, configuration, its
# arguments, arguments of the class)}.
_CONFIGURED: dict[str, tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = {
    "nf_resnet": (
        "timm.models.nfnet.NormFreeNet",
        "timm.models.nfnet.NfCfg",
        {"depths": DEPTHS, "channels": (32, 48, 64, 96), "stem_chs": 16, "group_size": 8},
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

    model: nn.Module = timm.create_model(name, num_classes=OUTPUTS, **arguments)
    return model


def _class(path: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The class at this path with its arguments, of which those that are paths are resolved."""
    given = {k: _resolved(v) for k, v in arguments.items()}
    model: nn.Module = pkgutil.resolve_name(path)(num_classes=OUTPUTS, **given)
    return model


def _resolved(value: Any) -> Any:
    named = isinstance(value, str) and value.startswith("timm.")
    return pkgutil.resolve_name(value) if named else value


def _configured(
    path: str, cfg: str, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> nn.Module:
    made = pkgutil.resolve_name(cfg)(**options)
    model: nn.Module = pkgutil.resolve_name(path)(made, num_classes=OUTPUTS, **arguments)
    return model


def entries() -> list[Entry]:
    """All networks of timm, by name; nothing is imported before one is built."""
    made = [
        *((name, size, partial(_model, name, given)) for name, (size, given) in _MODELS.items()),
        *(
            (name, size, partial(_class, path, given))
            for name, (size, path, given) in CLASSES.items()
        ),
        *((name, 32, partial(_configured, *given)) for name, given in _CONFIGURED.items()),
    ]
    return [Entry(f"timm/{name}", make, images(size)) for name, size, make in made]
