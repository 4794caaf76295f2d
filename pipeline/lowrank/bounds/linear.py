"""Layers as linear maps: their norms, the norm of W − Ŵ, and what rounding can add."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.lowrank.bounds.convolution import Convolution, absolute_sums, convolution_norm
from pipeline.lowrank.bounds.norms import EPS, Norm, absolute_norm, spectral_norm
from pipeline.lowrank.forms.pivots import PivotedInput, PivotedOutput
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.kinds import LOOKUPS, kind_of, runs_parents_code
from pipeline.lowrank.network.targets import as_stored, dense_weight, groups_of

_Conv = nn.modules.conv._ConvNd
_BatchNorm = nn.modules.batchnorm._BatchNorm


class NotCertifiedError(Exception):
    """Says why no bound can be given. `certify` catches it and returns a result with
    certified=False."""


@dataclass(frozen=True)
class LinearPair:
    """A layer of the dense network and the layer in its place, both float64.

    dense_scale, approximate_scale: (out,) factors of an eval BatchNorm that follows; None where
        there is none.
    """

    dense: nn.Module
    approximate: nn.Module
    dense_scale: Tensor | None = None
    approximate_scale: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The dense layer's weight with the factors of its BatchNorm, (out, in / groups,
        *kernel)."""
        return _scaled(effective_weight(self.dense), self.dense_scale)

    @property
    def approximate_weight(self) -> Tensor:
        """The weight of the layer in its place, in the same form as `weight`."""
        return _scaled(effective_weight(self.approximate), self.approximate_scale)

    def norm(self, weight: Tensor, example: Tensor) -> Norm:
        """An upper bound on ‖·‖₂ of the map with `weight` in this layer's geometry, for inputs of
        the shape of `example` (1, …)."""
        return map_norm(self.dense, weight, example)

    def rounding(self, example: Tensor) -> float:
        """The largest amount that rounding can add to the output of either layer, for ‖input‖ =
        1."""
        scales = [
            s.abs().max().item()
            for s in (self.dense_scale, self.approximate_scale)
            if s is not None
        ]
        parts = (rounding_gain(m, example) for m in (self.dense, self.approximate))
        return max(parts) * max([1.0, *scales])


def is_linear(module: nn.Module) -> bool:
    """Whether the layer maps vectors linearly (plus bias): Linear, convolutions, factorized."""
    known = kind_of(module) is not None or runs_parents_code(module)
    return (known or isinstance(module, Factorized)) and not isinstance(module, LOOKUPS)


def effective_weight(module: nn.Module) -> Tensor:
    """The layer's weight (out, in / groups, *kernel) float64, multiplied out where it is
    factorized."""
    weight = module.dense_weight() if isinstance(module, Factorized) else dense_weight(module)
    return weight.detach().to(torch.float64)


def map_norm(module: nn.Module, weight: Tensor, example: Tensor) -> Norm:
    """An upper bound on ‖·‖₂ of the map that `module` would be with `weight`, for inputs of the
    shape of `example` (1, …)."""
    if not isinstance(module, _Conv):
        return spectral_norm(weight.flatten(1))
    return convolution_norm(_convolution(module, weight, example))


def rounding_gain(module: nn.Module, example: Tensor) -> float:
    """ε·terms·‖|W|‖₂: a computed sum of n products is off by n·ε·Σ|products| at most.

    Through a factorized layer the terms add up and the norms multiply.
    """
    terms, gain = 1, 1.0
    for part in module if isinstance(module, Factorized) else [module]:
        if isinstance(part, nn.Flatten | nn.Unflatten):  # between the axes of a Tucker
            example = run(part, example)
            continue
        if isinstance(part, PivotedInput | PivotedOutput):
            weight, groups = part.matrix().detach().to(torch.float64), groups_of(part.rest)
        else:
            weight, groups = effective_weight(part), groups_of(part)
        terms += weight[0].numel() + 1
        if isinstance(part, _Conv):
            row, column = absolute_sums(_convolution(part, weight, example))
        else:
            absolute = weight.abs().reshape(groups, -1, weight.shape[1])
            row, column = (absolute.sum(axis).max().item() for axis in (2, 1))
        gain *= absolute_norm(row, column)
        example = run(part, example)
    return terms * EPS * gain


def batch_norm_scale(norm: nn.Module) -> Tensor:
    """(channels,) float64 factors of an eval BatchNorm, γ/√(variance + ε)."""
    assert isinstance(norm, _BatchNorm)
    if norm.running_var is None:
        raise NotCertifiedError(
            "BatchNorm without running statistics mixes the examples of a batch"
        )
    scale = (norm.running_var.to(torch.float64) + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.detach().to(torch.float64)


def run(module: nn.Module, inputs: Tensor) -> Tensor:
    """The module's output, without gradients."""
    with torch.no_grad():
        outputs = module(inputs)
    assert isinstance(outputs, Tensor)
    return outputs


def example_norms(values: Tensor) -> Tensor:
    """(N,) Euclidean norm of every example of (N, …), all its numbers as one vector."""
    norms: Tensor = torch.linalg.vector_norm(values.reshape(len(values), -1), dim=1)
    return norms


def _convolution(module: _Conv, weight: Tensor, example: Tensor) -> Convolution:
    axes = len(module.kernel_size)
    if module.transposed:  # the adjoint's kernel is the stored one
        weight = as_stored(type(module), weight, module.groups)
    size = (run(module, example) if module.transposed else example).shape[-axes:]
    return Convolution.of(module, weight, size)


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    return weight if scale is None else weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def matrix_norms(pair: LinearPair) -> tuple[float, float]:
    """(‖W‖₂, ‖W − Ŵ‖₂) of the weights as out × rest matrices, BatchNorm left out, which Theorem 4
    of the course module (docs/theorems.md) reads; the second is σ_{k+1} for the plain truncated
    SVD."""
    dense, other = (effective_weight(m).flatten(1) for m in (pair.dense, pair.approximate))
    return spectral_norm(dense).value, spectral_norm(dense - other).value
