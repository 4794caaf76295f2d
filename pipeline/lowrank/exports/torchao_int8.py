"""A folder of transformers in 8 bits, stored and run by torchao."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.lowrank.exports.quiet import quiet
from pipeline.lowrank.exports.rounding import Rounded


def in_8_bits(auto: str, folder: Path, weights: Mapping[str, Rounded]) -> nn.Module:
    """The model of the folder with the weights of its Linear layers in 8 bits, by channel, which
    takes the place of what is in the folder; torchao chooses the layers, and stores and runs the
    numbers of `weights`."""
    transformers: Any = importlib.import_module("transformers")
    torchao: Any = importlib.import_module("torchao.quantization")
    with quiet():
        small: nn.Module = getattr(transformers, auto).from_pretrained(
            folder,
            trust_remote_code=True,  # of the code that was just written there
            quantization_config=transformers.TorchAoConfig(torchao.Int8WeightOnlyConfig()),
        )
        for name, layer in small.named_modules():
            weight: Any = layer.weight if isinstance(layer, nn.Linear) else None
            if hasattr(weight, "qdata"):
                weight.qdata.copy_(weights[name].numbers)
                weight.scale.copy_(weights[name].steps)
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        small.eval().save_pretrained(folder)  # type: ignore[operator]
    return small
