"""Two power laws of a spectrum, whose exponents are different numbers.

One is of the values by their index, σᵢ ≈ c·i^(−α); the other is of the eigenvalues λ = σ² by their
density, p(λ) ∝ λ^(−α'). If the first held exactly, the second would with α' = 1 + 1/(2α).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.analysis.diagnostics.rank import above_noise

POOR_KS = 0.1
_STEPHENS = 0.990  # upper 10 % point of the modified KS statistic of an exponential sample
_FEWEST_EIGENVALUES = 10
_ROWS = 256  # lower ends tried at once: bounds the memory at 256·n numbers


@dataclass(frozen=True)
class PowerLaw:
    """σᵢ ≈ c·i^(−alpha), by least squares of log σ on log i.

    alpha: for alpha ≤ ½ the tail energy does not decay with the size of the matrix, and little can
        be cut.
    stderr: of the regression, as if residuals were independent. They are not (values are sorted),
        so it is a lower limit; a spectrum seen as a sample has about alpha·√(2/n) (Gabaix &
        Ibragimov 2011).
    ks: Kolmogorov–Smirnov distance between the energies that the fit and the spectrum put into the
        first k values: the most that an energy read from the fit is wrong by.
    poor: ks > 0.1, ten points of energy; then alpha should not be read.
    alpha_ww: 1 + 1/(2α), what the density exponent would be if the law held; None for alpha ≤ 0.
    """

    alpha: float
    stderr: float
    ks: float
    poor: bool
    alpha_ww: float | None


@dataclass(frozen=True)
class DensityLaw:
    """p(λ) ∝ λ^(−alpha) for λ ≥ xmin, λ = σ², by maximum likelihood.

    stderr: (alpha−1)/√tail.
    tail: how many eigenvalues are ≥ xmin.
    ks: distance of their distribution to the fit.
    poor: rejected at the 10 % level by Stephens' (1974) test for exponential samples of estimated
        mean, which log(λ/xmin) is under the law. The choice of xmin makes the test lenient: what it
        rejects is no power law, what it passes may still be none.
    """

    alpha: float
    stderr: float
    xmin: float
    tail: int
    ks: float
    poor: bool


def fit_power_law(singular_values: Tensor) -> PowerLaw | None:
    """Least squares of log σ on log i over the values above rounding; as numpy.polyfit(log i, log
    σ, 1).

    singular_values: (n,) descending, float64.

    Returns None for fewer than 3 values.
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
    ks = float((fitted / fitted[-1] - actual / actual[-1]).abs().max())
    alpha = -slope.item()
    alpha_ww = 1.0 + 0.5 / alpha if alpha > 0.0 else None
    return PowerLaw(alpha, stderr.item(), ks, ks > POOR_KS, alpha_ww)


def fit_density_law(singular_values: Tensor) -> DensityLaw | None:
    """The fit of Clauset, Shalizi & Newman (2009) to the eigenvalues σ² above rounding: for every
    possible xmin the exponent 1 + n/Σ ln(λ/xmin), then the xmin of the least KS distance.

    singular_values: (n,) descending, float64.

    Returns None for fewer than 10 values, and for equal ones. From 20 values on this is
    `weightwatcher`'s alpha of the same matrix.
    """
    logs = above_noise(singular_values).log().mul(2.0).flip(0)
    count = len(logs)
    if count < _FEWEST_EIGENVALUES or logs[0] == logs[-1]:
        return None
    tails = torch.arange(count, 0, -1, dtype=torch.float64)
    excess = logs.flip(0).cumsum(0).flip(0) - tails * logs
    # From the first of the largest values on there is no tail left to fit.
    usable = logs[:-1] < logs[-1]
    slopes = tails[:-1] / excess[:-1].clamp_min(torch.finfo(torch.float64).tiny)
    distances = torch.where(usable, _distances(logs, slopes), math.inf)
    best = int(distances.argmin())
    tail, slope, ks = count - best, float(slopes[best]), float(distances[best])
    root = math.sqrt(tail)
    poor = (ks - 0.2 / tail) * (root + 0.26 + 0.5 / root) > _STEPHENS
    return DensityLaw(1.0 + slope, slope / root, float(logs[best].exp()), tail, ks, poor)


def _distances(logs: Tensor, slopes: Tensor) -> Tensor:
    """(n−1,) KS distance of the values from each lower end on to the fit with its slope; the
    empirical distribution counts the values strictly below, as the authors' code does."""
    count = len(logs)
    place = torch.arange(count, dtype=torch.float64)
    found = []
    for start in range(0, count - 1, _ROWS):
        ends = place[start : min(start + _ROWS, count - 1), None]
        rise = logs[None, :] - logs[ends.long()]
        fitted = -torch.expm1(-slopes[ends.long()] * rise.clamp_min(0.0))
        gap = (fitted - (place - ends) / (count - ends)).abs()
        found.append(torch.where(place >= ends, gap, 0.0).amax(1))
    return torch.cat(found)
