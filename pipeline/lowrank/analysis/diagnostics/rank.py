"""Counts of the directions of a spectrum, in four ways: effective, stable, energy and numerical
rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError

# Singular values that come from a Gram matrix are noise below about 1e-8 of the largest.
NOISE = 1e-7


def effective_rank(singular_values: Tensor) -> float:
    """exp of the entropy of p = σ/Σσ (Roy & Vetterli 2007), as exp(scipy.stats.entropy(σ)); 0 for a
    zero spectrum."""
    total = singular_values.sum()
    if total == 0:
        return 0.0
    share = singular_values[singular_values > 0] / total
    return math.exp(-(share * share.log()).sum().item())


def stable_rank(singular_values: Tensor) -> float:
    """‖W‖_F² / ‖W‖₂², between 1 and the rank; 0 for a zero spectrum."""
    if len(singular_values) == 0 or singular_values[0] == 0:
        return 0.0
    return float(singular_values.square().sum() / singular_values[0].square())


def energy_rank(singular_values: Tensor, energy: float) -> int:
    """min{k : Σ_{i≤k}σᵢ² ≥ energy·Σσᵢ²}: directions that hold this fraction of ‖W‖_F².

    singular_values: (n,) descending; energy in (0, 1). 0 for a zero spectrum.
    """
    held = singular_values.square().cumsum(0)
    if len(held) == 0 or held[-1] == 0:
        return 0
    return int((held < energy * held[-1]).sum()) + 1


def numerical_rank(singular_values: Tensor) -> int:
    """The number of values above rounding, 1e-7 of the largest, as torch.linalg.matrix_rank(matrix,
    rtol=1e-7); 0 for a zero spectrum."""
    return len(above_noise(singular_values))


def above_noise(singular_values: Tensor) -> Tensor:
    """The leading values (descending) that are above rounding, 1e-7 of the largest."""
    if len(singular_values) == 0:
        return singular_values
    return singular_values[singular_values > NOISE * singular_values[0]]


def full_spectrum(singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The spectrum of a (rows, columns) matrix, (min(rows, columns),) float64, descending: values
    at or below rounding become zeros, and zeros stand for those that are absent.

    Raises LowRankError for more values than such a matrix has.
    """
    size = min(shape)
    if len(singular_values) > size:
        rows, columns = shape
        raise LowRankError(
            f"{len(singular_values)} singular values of a {rows}×{columns} matrix: it has at most "
            f"{size}; give the shape of the unfolding that they come from"
        )
    values = above_noise(singular_values.to(torch.float64))
    return torch.cat([values, values.new_zeros(size - len(values))])
