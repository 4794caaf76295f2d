"""How much of one matrix's spectrum is noise, by a fit of the Marchenko–Pastur law.

The entries of trained weights are not independent: for them all of this is a diagnostic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.analysis.diagnostics import marchenko_pastur
from pipeline.lowrank.analysis.diagnostics.rank import full_spectrum

FALSE_ALARM = 0.01
FEWEST_VALUES = 8
# The Tracy–Widom law of real matrices (β = 1): mean, standard deviation, upper 1 % point.
_TW_MEAN, _TW_SD, _TW_99 = -1.2065336, 1.2679830, 2.0234493


@dataclass(frozen=True)
class NoiseFit:
    """An (m, n) matrix, m ≤ n, read as low rank plus independent entries of variance s². All
    figures but `ks` and those of spikes are in the unit of the weight; none is in eigenvalues of
    WWᵀ/n.

    scale: ŝ = median(σ)/√(n·μ_β), a standard deviation per entry; unlike ‖W‖_F/√(mn) it is not
        inflated by a few large values.
    scale_stderr: its standard error, for noise alone.
    edge: ŝ(√n + √m), where singular values of noise end.
    fluctuation: Tracy–Widom scale of the largest singular value of noise around the edge.
    spike_edge: what the largest singular value of noise exceeds in 1 % of matrices, the error of ŝ
        included.
    spikes: how many singular values are above it.
    spike_energy: their part of ‖W‖_F².
    detectable: ŝ(mn)^¼; a planted direction that is weaker leaves no trace at all (Baik, Ben Arous
        & Péché 2005).
    ks: distance between the distribution of the squared values below the spike edge and the law.
        Pure noise has about 2/m.
    """

    scale: float
    scale_stderr: float
    edge: float
    fluctuation: float
    spike_edge: float
    spikes: int
    spike_energy: float
    detectable: float
    ks: float


def fit_noise(singular_values: Tensor, shape: tuple[int, int]) -> NoiseFit | None:
    """Fits the Marchenko–Pastur law by the median (Gavish & Donoho 2014).

    singular_values: (≤ min(shape),) descending, float64; absent ones count as zeros. shape:
    (rows, columns) of the matrix, in either order. None where there is nothing to fit: fewer
    than 8 values, or more than half of them zero.
    """
    values = full_spectrum(singular_values, shape)
    small, large = min(shape), max(shape)
    middle = float(values.quantile(0.5)) if small >= FEWEST_VALUES else 0.0
    if middle == 0.0:
        return None
    beta = small / large
    scale = middle / math.sqrt(large * marchenko_pastur.median(beta))
    relative = scale_error(small, large)
    centre, spread = edge_law(small, large)
    # The error of ŝ and the wandering of the edge add up as if they were independent; in units
    # of its standard deviation the sum has at most the quantile of the Tracy–Widom law.
    deviation = math.hypot(spread * _TW_SD, centre * relative)
    highest = centre + spread * _TW_MEAN + (_TW_99 - _TW_MEAN) / _TW_SD * deviation
    spikes = int((values > scale * highest).sum())
    return NoiseFit(
        scale=scale,
        scale_stderr=scale * relative,
        edge=scale * (math.sqrt(large) + math.sqrt(small)),
        fluctuation=scale * spread,
        spike_edge=scale * highest,
        spikes=spikes,
        spike_energy=float(values[:spikes].square().sum() / values.square().sum()),
        detectable=scale * (small * large) ** 0.25,
        ks=_distance(values[spikes:] / scale, large, beta),
    )


def edge_law(small: int, large: int) -> tuple[float, float]:
    """(centre, spread) of the largest singular value of an m×n matrix of unit noise, which is about
    centre + spread·TW₁: √μ and τ/(2√μ) of Johnstone's (2001) law for its square, μ + τ·TW₁.

    small, large: the smaller and the larger of m and n.
    """
    roots = math.sqrt(large - 1) + math.sqrt(small)
    spread = roots * (1.0 / math.sqrt(large - 1) + 1.0 / math.sqrt(small)) ** (1.0 / 3.0)
    return roots, spread / (2.0 * roots)


def scale_error(small: int, large: int) -> float:
    """Relative standard error of ŝ for pure noise.

    small, large: the smaller and the larger of m and n.

    The number of eigenvalues of a real random matrix below a point of its bulk has variance
    ln(m)/π² + 0.06 (the constant is measured). Divided by m times the density at the median it is
    the error of the median; the relative error of ŝ is half of the median's.
    """
    beta = small / large
    median = marchenko_pastur.median(beta)
    height = float(marchenko_pastur.density(torch.tensor(median, dtype=torch.float64), beta))
    counted = math.sqrt(math.log(small) / math.pi**2 + 0.06)
    return 0.5 * counted / (small * height * median)


def _distance(values: Tensor, large: int, beta: float) -> float:
    """Kolmogorov–Smirnov distance of the squares of `values` (descending, s = 1) to the law."""
    count = len(values)
    theory = marchenko_pastur.cdf(values.flip(0).square() / large, beta)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    return float(torch.maximum((theory - steps[:-1]).abs(), (theory - steps[1:]).abs()).max())
