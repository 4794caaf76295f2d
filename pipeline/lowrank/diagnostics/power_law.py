"""How fast a spectrum decays: the power law σᵢ ≈ c·i^(−α)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.diagnostics.rank import above_noise


@dataclass(frozen=True)
class PowerLaw:
    """σᵢ ≈ c·i^(−alpha): exponent, its standard error, and the Kolmogorov–Smirnov distance
    between the energy that the fit and the spectrum put into the first k values (0 is perfect;
    above about 0.1 the spectrum is not a power law and alpha should not be read)."""

    alpha: float
    stderr: float
    ks: float


def fit_power_law(singular_values: Tensor) -> PowerLaw | None:
    """Least squares of log σ on log i over the values above noise; None for fewer than 3.

    singular_values: (n,) descending, float64.
    """
    values = above_noise(singular_values)
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
