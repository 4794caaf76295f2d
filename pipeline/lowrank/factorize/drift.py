"""How far a layer's inputs in a compressed network are from those in the dense one, and the weight
that makes up for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

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
    mean, shift: (groups, n) Σx' and Σ(x − x').
    positions: how many were summed.
    """

    inputs: Tensor
    cross: Tensor
    mean: Tensor
    shift: Tensor
    positions: int

    def __add__(self, other: Self) -> Self:
        return type(self)(**{key: value + getattr(other, key) for key, value in vars(self).items()})

    def missing(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(Σr·x'ᵀ, Σr), what is missing at the output, r = W·x − W·x'; weight: (groups, out, n)."""
        return weight @ self.cross, (weight @ self.shift[..., None])[..., 0]


@dataclass
class NarrowerDrift(Drift):
    """The same of a layer that reads fewer channels than the dense one: r = W·x − V·x', V being the
    weight that it starts from, has no form in x − x'.

    inputs, mean: of x', as in Drift; cross: (1, out, n) Σr·x'ᵀ; shift: (1, out) Σr.
    """

    def missing(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.cross, self.shift


def measure_drift(dense_rows: Tensor, rows: Tensor) -> Drift:
    """The sums of one batch; dense_rows, rows: (groups, positions, n), x and x' at the same
    positions."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return Drift(
        inputs=gram(rows),
        cross=gram(rows, dense_rows.to(wide) - rows.to(wide)).mT,
        mean=rows.double().sum(1),
        shift=dense_rows.double().sum(1) - rows.double().sum(1),
        positions=rows.shape[1],
    )


def measure_narrower(
    dense_rows: Tensor, rows: Tensor, dense_weight: Tensor, weight: Tensor
) -> NarrowerDrift:
    """The sums of one batch; dense_rows: (1, positions, m) x, rows: (1, positions, n) x';
    dense_weight, weight: (out, m) and (out, n), W and V."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    with torch.autocast(rows.device.type, enabled=False):
        missing = (
            dense_rows.to(wide) @ dense_weight.to(wide).mT - rows.to(wide) @ weight.to(wide).mT
        )
    return NarrowerDrift(
        inputs=gram(rows),
        cross=gram(rows, missing).mT,
        mean=rows.double().sum(1),
        shift=missing.double().sum(1),
        positions=rows.shape[1],
    )


def corrected_weight(
    weight: Tensor, drift: Drift, share: float, *, centred: bool, name: str = ""
) -> Tensor:
    """W + share·(V − W), V = argmin E‖W·x − V·x'‖² = W + W·E[(x − x')x'ᵀ]·E[x'x'ᵀ]⁻¹, damped; for
    a layer that reads fewer channels, from the weight that it starts with.

    weight: W (out, in/groups, *kernel).
    share: in [0, 1].
    centred: covariances instead of second moments, for a layer whose bias takes up the mean.
    name: of the layer, for messages.

    Returns float64 in the shape of the weight.
    """
    count = drift.positions
    groups, size = drift.mean.shape
    matrix = weight.to(torch.float64).reshape(groups, -1, size)
    inputs, (cross, shift) = drift.inputs / count, (one / count for one in drift.missing(matrix))
    lost = inputs.new_zeros(len(inputs))
    if centred:
        # Where inputs hardly vary around a large mean, little of the sums is left.
        lost = UNCERTAIN * _trace(inputs)
        mean = drift.mean / count
        inputs = inputs - mean[:, :, None] * mean[:, None, :]
        cross = cross - shift[:, :, None] * mean[:, None, :]
    floor = _DAMPING / size * _trace(inputs).clamp_min(0.0) + lost
    factor = cholesky(inputs, torch.where(floor > 0, floor, 1.0)[:, None], name)
    change = torch.cholesky_solve(cross.mT, factor).mT
    return (matrix + share * change).reshape(weight.shape)


def mean_change(weight: Tensor, approximation: Tensor, drift: Drift) -> Tensor:
    """(out,) E[W·x] − E[Ŵ·x'], which the bias takes up.

    weight: that the layer starts from, as for `corrected_weight`.
    """
    groups, size = drift.mean.shape
    before, after = (w.double().reshape(groups, -1, size) for w in (weight, approximation))
    _, missing = drift.missing(before)
    change = (before - after) @ drift.mean[..., None]
    return ((missing + change[..., 0]) / drift.positions).flatten()


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
