"""Forms in which a compressed network runs faster on some devices; none changes its function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.lowrank.forms.pivots import PivotedInput, PivotedOutput, pointwise_as
from pipeline.lowrank.network.targets import groups_of, write_weight_


def has_pivots(model: nn.Module) -> bool:
    """Whether the network has a pivoted factor."""
    return any(isinstance(module, PivotedInput | PivotedOutput) for module in model.modules())


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Brings the kernels of 2-D convolutions into a memory format; nn.Module.to would refuse the
    kernels of 3-D ones, and 1×1 kernels are the same in all formats. Channels last is a fifth
    faster on CPUs, and more on GPUs' tensor cores."""
    for parameter in model.parameters():
        if parameter.dim() == 4 and parameter[0, 0].numel() > 1:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def multiply_out_(model: nn.Module) -> nn.Module:
    """Replaces pivoted factors by whole ones, in place: plain Linears and 1×1 convolutions that
    compute the pivots too instead of passing them on. The function stays the same, with rank²
    numbers and products more for each side: this is for running, not for saving. Convolutions gain
    by it on CPUs, where moving channels takes longer than multiplying them."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, PivotedInput):
                setattr(parent, name, _whole(layer.rest, layer.matrix(), None))
            elif isinstance(layer, PivotedOutput):
                setattr(parent, name, _whole(layer.rest, layer.matrix(), layer.bias))
    return model


@torch.no_grad()
def _whole(rest: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer of the kind of `rest` with this weight and bias."""
    layer = pointwise_as(rest, weight.shape[1] * groups_of(rest), weight.shape[0])
    write_weight_(layer, weight)
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.clone()))
    return layer.train(rest.training)
