"""What a spectrum says: effective rank, stable rank, and how fast it decays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_NOISE = 1e-7  # singular values from a Gram matrix are noise below about 1e-8·σ₁


@dataclass(frozen=True)
class PowerLaw:
    """σᵢ ≈ c·i^(−alpha): exponent, its standard error, and the Kolmogorov–Smirnov distance
    between the energy that the fit and the spectrum put into the first k values (0 is perfect;
    above about 0.1 the spectrum is not a power law and alpha should not be read)."""

    alpha: float
    stderr: float
    ks: float


def effective_rank(singular_values: Tensor) -> float:
    """exp of the entropy of p = σ/Σσ (Roy & Vetterli 2007); 0 for a zero spectrum."""
    total = singular_values.sum()
    if total == 0:
        return 0.0
    share = singular_values[singular_values > 0] / total
    return math.exp(-(share * share.log()).sum().item())


def stable_rank(singular_values: Tensor) -> float:
    """‖W‖_F² / ‖W‖₂², between 1 and the rank; 0 for a zero spectrum."""
    if singular_values[0] == 0:
        return 0.0
    return float(singular_values.square().sum() / singular_values[0].square())


def fit_power_law(singular_values: Tensor) -> PowerLaw | None:
    """Least squares of log σ on log i over the values above noise; None for fewer than 3.

    singular_values: (n,) descending, float64.
    """
    values = singular_values[singular_values > _NOISE * singular_values[0]]
    count = len(values)
    if count < 3:
        return None
    x = torch.arange(1, count + 1, dtype=torch.float64).log()
    y = values.log()
    dx = x - x.mean()
    slope = (dx * (y - y.mean())).sum() / dx.square().sum()
    residual = y - y.mean() - slope * dx
    stderr = (residual.square().sum() / (count - 2) / dx.square().sum()).sqrt()
    fitted = (slope * x).exp().square().cumsum(0)
    actual = values.square().cumsum(0)
    ks = (fitted / fitted[-1] - actual / actual[-1]).abs().max()
    return PowerLaw(-slope.item(), stderr.item(), ks.item())
