"""The standard layers that forms are made of, with the device, dtype and geometry of a dense
layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.lowrank.network.kinds import behaviour_of
from pipeline.lowrank.network.same_padding import SAME
from pipeline.lowrank.network.targets import dense_weight, groups_of

_CONVOLUTIONS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Callable[..., nn.Module], ...] = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def pointwise(
    module: nn.Module, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False
) -> nn.Module:
    """A 1×1 convolution with `module`'s device and dtype, weights uninitialised.

    inputs, outputs: channels.
    """
    convolution = _CONVOLUTIONS[_axes(module) - 1]
    return convolution(inputs, outputs, 1, groups=groups, bias=bias, **_placement(module))


def like(
    module: nn.Module, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False
) -> nn.Module:
    """A convolution with `module`'s kernel, stride, padding and dilation and with other channels,
    weights uninitialised; a transposed one where `module` is."""
    geometry = {key: getattr(module, key) for key in _geometry(module)}
    return _layer_class(module)(
        inputs, outputs, **geometry, groups=groups, bias=bias, **_placement(module)
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
    """As `like` along one axis of the kernel, and of size 1 along the others and along `depth` more
    axes put before them."""

    def only(values: Any, neutral: int | None) -> Any:
        if neutral is None or isinstance(values, str):
            return values
        kept = (value if index == axis else neutral for index, value in enumerate(values))
        return (*(neutral,) * depth, *kept)

    geometry = {key: only(getattr(module, key), one) for key, one in _geometry(module).items()}
    return _layer_class(module, depth)(
        inputs, outputs, **geometry, groups=groups, bias=bias, **_placement(module)
    )


def linear(module: nn.Module, inputs: int, outputs: int, *, bias: bool = False) -> nn.Module:
    """A Linear with `module`'s device and dtype, weights uninitialised."""
    return nn.Linear(inputs, outputs, bias=bias, **_placement(module))


def embedding(module: nn.Embedding | nn.EmbeddingBag, dimension: int) -> nn.Module:
    """A table with `module`'s entries, padding index and way of adding up, and with rows of another
    dimension."""
    options = {"padding_idx": module.padding_idx, **_placement(module)}
    if isinstance(module, nn.EmbeddingBag):
        return nn.EmbeddingBag(module.num_embeddings, dimension, mode=module.mode, **options)
    return nn.Embedding(module.num_embeddings, dimension, **options)


def channels(module: nn.Module) -> tuple[int, int, int, bool]:
    """(input channels, output channels, groups, whether there is a bias) of a layer."""
    outputs, inputs, *_ = dense_weight(module).shape
    groups = groups_of(module)
    return inputs * groups, outputs, groups, getattr(module, "bias", None) is not None


def _geometry(module: nn.Module) -> dict[str, int | None]:
    """The options of a convolution that say where it multiplies, each with its value for an axis
    without a kernel; None for one that is no matter of axes."""
    options = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "padding_mode": None}
    return {**options, "output_padding": 0} if _is_transposed(module) else options


def _layer_class(module: nn.Module, more_axes: int = 0) -> Callable[..., nn.Module]:
    """The class of the layers that convolve as `module` does, for images of `more_axes` axes
    more."""
    place = _axes(module) + more_axes - 1
    if _is_transposed(module):
        return _TRANSPOSED[place]
    behaviour = behaviour_of(module)
    same = behaviour is not None and behaviour.same_padding
    return list(SAME.values())[place] if same else _CONVOLUTIONS[place]


def _is_transposed(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvTransposeNd)


def _axes(module: nn.Module) -> int:
    return dense_weight(module).ndim - 2


def _placement(module: nn.Module) -> dict[str, Any]:
    weight = dense_weight(module)
    return {"device": weight.device, "dtype": weight.dtype}
