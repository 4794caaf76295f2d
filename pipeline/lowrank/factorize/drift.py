"""How far a layer's inputs in a compressed network are from those in the dense one, and the weight
that makes up for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.analysis.metrics import UNCERTAIN, cholesky
from pipeline.lowrank.analysis.moments import gram

# Directions with less than this part of the mean input energy are corrected less.
_DAMPING = 1e-4


@dataclass
class Drift:
    """Sums over the positions of one layer's inputs, x in the dense network and x' in the
    compressed one, float64, one slice a group.

    inputs: (groups, n, n) Σx'·x'ᵀ.
    cross: (groups, n, n) Σ(x − x')·x'ᵀ.
    mean, dense_mean: (groups, n) Σx' and Σx.
    positions: how many were summed.
    """

    inputs: Tensor
    cross: Tensor
    mean: Tensor
    dense_mean: Tensor
    positions: int

    def __add__(self, other: Drift) -> Drift:
        return Drift(**{key: value + getattr(other, key) for key, value in vars(self).items()})


def measure_drift(dense_rows: Tensor, rows: Tensor) -> Drift:
    """The sums of one batch; dense_rows, rows: (groups, positions, n), x and x' at the same
    positions."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return Drift(
        inputs=gram(rows),
        cross=gram(rows, dense_rows.to(wide) - rows.to(wide)).mT,
        mean=rows.double().sum(1),
        dense_mean=dense_rows.double().sum(1),
        positions=rows.shape[1],
    )


def corrected_weight(
    weight: Tensor, drift: Drift, share: float, *, centred: bool, name: str = ""
) -> Tensor:
    """W + share·(V − W), V = argmin E‖W·x − V·x'‖² = W + W·E[(x − x')x'ᵀ]·E[x'x'ᵀ]⁻¹, damped.

    weight: W (out, in/groups, *kernel).
    share: in [0, 1].
    centred: covariances instead of second moments, for a layer whose bias takes up the mean.
    name: of the layer, for messages.

    Returns float64 in the shape of the weight.
    """
    count = drift.positions
    inputs, cross = drift.inputs / count, drift.cross / count
    lost = inputs.new_zeros(len(inputs))
    if centred:
        # Where inputs hardly vary around a large mean, little of the sums is left.
        lost = UNCERTAIN * _trace(inputs)
        mean, shift = drift.mean / count, (drift.dense_mean - drift.mean) / count
        inputs = inputs - mean[:, :, None] * mean[:, None, :]
        cross = cross - shift[:, :, None] * mean[:, None, :]
    groups, size = drift.mean.shape
    matrix = weight.to(torch.float64).reshape(groups, -1, size)
    floor = _DAMPING / size * _trace(inputs).clamp_min(0.0) + lost
    factor = cholesky(inputs, torch.where(floor > 0, floor, 1.0)[:, None], name)
    change = torch.cholesky_solve((matrix @ cross).mT, factor).mT
    return (matrix + share * change).reshape(weight.shape)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
