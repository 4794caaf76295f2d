"""Costs: parameters and multiply-accumulates, counted on the module itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.target import KINDS, Target, dense_weight

_COUNTED = (nn.Linear, nn.modules.conv._ConvNd)


def count_params(model: nn.Module) -> int:
    """Number of parameters; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def trace_positions(model: nn.Module, example: Any) -> dict[str, tuple[int, int]]:
    """Runs one forward pass and returns {layer: (input positions, output positions)}.

    `example` is a batch of one (a tensor, or a tuple / dict of the model's arguments). A
    position is one vector of channels that the layer reads or writes; calls are added up.
    The model's training mode is restored and nothing is accumulated in it.
    """
    counts: dict[str, tuple[int, int]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, _COUNTED):
            hooks.append(module.register_forward_hook(_counter(name, counts)))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            call(model, example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return counts


def call(model: nn.Module, batch: Any) -> Any:
    """model(batch), where a tuple is spread over arguments and a dict over keywords."""
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    return model(batch)


def network_macs(model: nn.Module, example: Any) -> dict[str, Any]:
    """Multiply-accumulates of one example: {"total": int, "layers": {name: int}}.

    Linear and convolution layers are counted (normalisation, pooling and activations are not:
    they are additions and comparisons in the order of a percent).
    """
    layers = {}
    for name, (inputs, outputs) in trace_positions(model, example).items():
        module = model.get_submodule(name)
        transposed = getattr(module, "transposed", False)
        layers[name] = dense_weight(module).numel() * (inputs if transposed else outputs)
    return {"total": sum(layers.values()), "layers": layers}


def describe_target(name: str, module: nn.Module, positions: tuple[int, int]) -> Target:
    """The Target of a layer, given its positions from `trace_positions`.

    Raises LowRankError on NaN or Inf in the weight.
    """
    weight = dense_weight(module)
    if not torch.isfinite(weight).all():
        raise LowRankError(
            f"layer {name!r}: the weight holds NaN or Inf; repair the checkpoint, or leave the "
            f"layer out with analyze.exclude=[{name}]"
        )
    return Target(
        name=name,
        kind=KINDS[type(module)],
        shape=tuple(weight.shape),
        bias=module.bias is not None,
        in_positions=positions[0],
        out_positions=positions[1],
    )


def _counter(name: str, counts: dict[str, tuple[int, int]]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before, after = counts.get(name, (0, 0))
        counts[name] = (
            before + _positions(module, inputs[0], "in"),
            after + _positions(module, output, "out"),
        )

    return hook


def _positions(module: nn.Module, value: Tensor, side: str) -> int:
    if isinstance(module, nn.Linear):
        return value.numel() // value.shape[-1]
    channels = module.in_channels if side == "in" else module.out_channels
    assert isinstance(channels, int)
    return value.numel() // channels
