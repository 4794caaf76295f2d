"""What a layer computes, split where a fused kernel can go on: the kernel is given the last factor
as its weight, and what the factors before it make of the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Product:
    """A layer's output is `matrix` · `value` + `bias`.

    value: (…, n), matrix: (out, n), bias: (out,) or None.
    """

    value: Tensor
    matrix: Tensor
    bias: Tensor | None


def product(layer: nn.Module, x: Tensor) -> Product:
    """The product that the layer computes for x, its last factor not multiplied in: of a dense
    layer that is the weight. A layer that hooks listen to, or of which the last factor computes
    more than its weight says, is called; the matrix is then the identity.

    layer: a Linear, or a factorized one. x: (…, in).
    """
    *before, last = layer if isinstance(layer, nn.Sequential) else (layer,)
    factor = None if _is_watched(layer) else _matrix(last)
    if factor is None:
        value = layer(x)
        size = value.shape[-1]
        return Product(value, torch.eye(size, dtype=value.dtype, device=value.device), None)
    for part in before:
        x = part(x)
    bias: Tensor | None = last.bias  # type: ignore[assignment]
    return Product(x, factor, bias)


def _matrix(last: nn.Module) -> Tensor | None:
    """The matrix of a factor (a Linear, or pivots with a Linear), or None where it cannot be
    read."""
    inner = getattr(last, "rest", last)
    if not isinstance(inner, nn.Linear) or type(inner.weight) not in (Tensor, nn.Parameter):
        return None
    return inner.weight if inner is last else last.matrix()  # type: ignore[operator]


def _is_watched(layer: nn.Module) -> bool:
    """Whether something was registered to run with the layer, or with a factor in it."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
        for part in layer.modules()
    )
