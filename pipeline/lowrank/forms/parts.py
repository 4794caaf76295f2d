"""The standard layers that forms are made of, with the device, dtype and geometry of a dense
layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.lowrank.network.targets import CONVOLUTIONS, dense_weight, groups_of


def pointwise(
    module: nn.Module, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False
) -> nn.Module:
    """A 1×1 convolution (a Linear where `module` is one) with `module`'s device and dtype, weights
    uninitialised.

    inputs, outputs: channels.
    """
    return _convolution(module)(inputs, outputs, 1, groups=groups, bias=bias, **_placement(module))


def like(
    module: nn.Module, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False
) -> nn.Module:
    """A convolution with `module`'s kernel, stride, padding and dilation and with other channels,
    weights uninitialised."""
    return _convolution(module)(
        inputs,
        outputs,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        padding_mode=module.padding_mode,
        groups=groups,
        bias=bias,
        **_placement(module),
    )


def along(
    module: nn.Module,
    axis: int,
    inputs: int,
    outputs: int,
    *,
    depth: int = 0,
    groups: int = 1,
    bias: bool = False,
) -> nn.Module:
    """A convolution with `module`'s kernel, stride, padding and dilation along one axis of the
    kernel, and of size 1 along the others and along `depth` more axes put before them."""

    def only(values: Any, neutral: int) -> tuple[int, ...]:
        kept = (value if index == axis else neutral for index, value in enumerate(values))
        return (*(neutral,) * depth, *kept)

    padding = module.padding
    dimensions = len(module.kernel_size) + depth  # type: ignore[arg-type]
    return CONVOLUTIONS[f"conv{dimensions}d"](
        inputs,
        outputs,
        only(module.kernel_size, 1),  # type: ignore[arg-type]
        stride=only(module.stride, 1),  # type: ignore[arg-type]
        padding=padding if isinstance(padding, str) else only(padding, 0),  # type: ignore[arg-type]
        dilation=only(module.dilation, 1),  # type: ignore[arg-type]
        padding_mode=module.padding_mode,  # type: ignore[arg-type]
        groups=groups,
        bias=bias,
        **_placement(module),
    )


def linear(module: nn.Module, inputs: int, outputs: int, *, bias: bool = False) -> nn.Module:
    """A Linear with `module`'s device and dtype, weights uninitialised."""
    return nn.Linear(inputs, outputs, bias=bias, **_placement(module))


def embedding(module: nn.Embedding, dimension: int) -> nn.Module:
    """A table with `module`'s entries and padding index and with rows of another dimension."""
    return nn.Embedding(
        module.num_embeddings, dimension, padding_idx=module.padding_idx, **_placement(module)
    )


def channels(module: nn.Module) -> tuple[int, int, int, bool]:
    """(input channels, output channels, groups, whether there is a bias) of a layer."""
    outputs, inputs, *_ = dense_weight(module).shape
    groups = groups_of(module)
    return inputs * groups, outputs, groups, getattr(module, "bias", None) is not None


def _convolution(module: nn.Module) -> Callable[..., nn.Module]:
    return next(c for c in CONVOLUTIONS.values() if isinstance(module, c))


def _placement(module: nn.Module) -> dict[str, Any]:
    weight = dense_weight(module)
    return {"device": weight.device, "dtype": weight.dtype}
