"""What a layer computes, split where a fused kernel can go on: the kernel is given the last factor
as its weight and what the factors before it make of the input, or all factors multiplied out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    layer that is the weight. A layer that has to be called is; the matrix is then the identity.

    layer: a Linear, or a factorized one. x: (…, in).
    """
    if must_be_called(layer):
        value = layer(x)
        size = value.shape[-1]
        return Product(value, torch.eye(size, dtype=value.dtype, device=value.device), None)
    *before, last = factors_of(layer)
    for part in before:
        x = part(x)
    matrix = _matrix(last)
    assert matrix is not None, "a layer that need not be called"
    return Product(x, matrix, _bias(last))


def multiplied_out(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """((out, in), bias) of a Linear or a factorized layer that need not be called, with
    gradients."""
    parts = factors_of(layer)
    matrices = [_matrix(part) for part in parts]
    whole = matrices[0]
    assert whole is not None, "a layer that need not be called"
    for matrix in matrices[1:]:
        assert matrix is not None, "a layer that need not be called"
        whole = matrix @ whole
    return whole, _bias(parts[-1])


def must_be_called(layer: nn.Module) -> bool:
    """Whether something was registered to run with the layer or with a factor in it, or a factor
    computes more than its weight says."""
    watched = any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
        for part in layer.modules()
    )
    return watched or any(_matrix(part) is None for part in factors_of(layer))


def factors_of(layer: nn.Module) -> list[nn.Module]:
    """The parts of a factorized layer, first to last; a dense layer itself."""
    return list(layer) if isinstance(layer, nn.Sequential) else [layer]


def side_by_side(factors: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """One input for all directions of a layer, and their matrices: where the directions read
    different values, each has zeros for those of the others."""
    first = factors[0][0]
    if all(value is first for value, _ in factors):
        return first, [matrix for _, matrix in factors]
    widths = [value.shape[-1] for value, _ in factors]
    padded = [
        functional.pad(matrix, (sum(widths[:place]), sum(widths[place + 1 :])))
        for place, (_, matrix) in enumerate(factors)
    ]
    return torch.cat([value for value, _ in factors], -1), padded


def _matrix(part: nn.Module) -> Tensor | None:
    """The matrix of a factor (a Linear, or pivots with a Linear), or None where it cannot be
    read."""
    inner = getattr(part, "rest", part)
    if not isinstance(inner, nn.Linear) or _is_quantized(inner.weight):
        return None
    return inner.weight if inner is part else part.matrix()  # type: ignore[operator]


def _is_quantized(weight: Tensor) -> bool:
    """Whether a tensor class of its own stores the numbers, as torchao's do."""
    return type(weight).dequantize is not Tensor.dequantize


def _bias(part: nn.Module) -> Tensor | None:
    bias: Tensor | None = part.bias  # type: ignore[assignment]
    return bias
