"""Two ranks from the assumption "low rank plus independent noise": Gavish–Donoho and EVBMF.

Weights of trained networks are not that, so both are heuristics for them; on a planted low-rank
matrix in noise they are what their theorems say. In units of s√n on a square matrix a singular
value is kept above 2.216 (EVBMF) or 2.309 (Gavish–Donoho); pure noise reaches 2.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.lowrank.analysis.diagnostics.marchenko_pastur import median
from pipeline.lowrank.analysis.diagnostics.rank import full_spectrum

# The free energy has kinks and may have several minima: the whole interval is tried at so many
# points, then the neighbourhood of the best, each time 64 times closer.
_GRID, _ROUNDS = 129, 5


def hard_threshold(beta: float) -> float:
    """λ(β) = √(2(β+1) + 8β/((β+1) + √(β²+14β+1))), in units of s√n: the threshold on singular
    values with the least worst-case squared error when the noise s is *known* (Gavish & Donoho
    2014, eq. 11). β = m/n in (0, 1]; 4/√3 for β = 1."""
    root = math.sqrt(beta * beta + 14.0 * beta + 1.0)
    return math.sqrt(2.0 * (beta + 1.0) + 8.0 * beta / (beta + 1.0 + root))


def median_threshold(beta: float) -> float:
    """ω(β) = λ(β)/√μ_β: the same threshold in units of the median singular value, for *unknown*
    noise. β = m/n in (0, 1]; 2.858 for β = 1."""
    return hard_threshold(beta) / math.sqrt(median(beta))


def optimal_threshold_rank(singular_values: Tensor, shape: tuple[int, int]) -> int:
    """The number of singular values above ω(β)·median(σ), for unknown noise (Gavish & Donoho 2014).

    singular_values: (≤ min(shape),) descending, float64; absent ones count as zeros.
    shape: (rows, columns) of the matrix, in either order.

    Returns a rank between 0 and the numerical rank; a matrix with more than half of its values zero
    has no noise, and keeps its rank.
    """
    values = full_spectrum(singular_values, shape)
    threshold = median_threshold(min(shape) / max(shape)) * values.quantile(0.5)
    return int((values > threshold).sum())


def evbmf_rank(singular_values: Tensor, shape: tuple[int, int]) -> int:
    """The rank of empirical variational Bayesian matrix factorization, its analytic global solution
    with the noise variance estimated (Nakajima, Sugiyama, Babacan & Tomioka 2013).

    singular_values: (≤ min(shape),) descending, float64; absent ones count as zeros.
    shape: (rows, columns) of the matrix, in either order.

    Returns a rank below 1 + L/(1+a), a = L/M (L ≤ M the sides of the matrix). A matrix with so many
    zeros that it has no noise keeps its rank; a zero matrix has 0.
    """
    values = full_spectrum(singular_values, shape)
    variance = evbmf_noise_variance(values, shape)
    ratio = min(shape) / max(shape)
    threshold = math.sqrt(max(shape) * variance * _evb_threshold(ratio))
    return int((values > threshold).sum())


def evbmf_noise_variance(singular_values: Tensor, shape: tuple[int, int]) -> float:
    """The variance v of the noise (weight², per entry) that minimises the free energy

    Σ_{x≤x̄}(x − ln x) + Σ_{x>x̄}[x − τ + ln((τ+1)/x) + a·ln(τ/a+1)],  x = σ²/(M·v),

    over the interval that must hold the minimum (Nakajima et al. 2013, Theorem 3); 0 where that
    interval reaches 0, which is a matrix without noise. Arguments as in `evbmf_rank`.
    """
    values = full_spectrum(singular_values, shape)
    small, large = min(shape), max(shape)
    ratio = small / large
    squared = values.square() / large
    if squared[0] == 0:
        return 0.0
    squared, unit = squared / squared[0], float(squared[0])
    most = math.ceil(small / (1.0 + ratio)) - 1  # components that the solution can have
    low = max(float(squared[most]) / _evb_threshold(ratio), float(squared[most:].mean()))
    high = float(squared.mean())
    if low <= 0.0:
        return 0.0
    left, right = math.log(low), math.log(max(high, low))
    for _ in range(_ROUNDS):
        grid = torch.linspace(left, right, _GRID, dtype=torch.float64)
        best = int(_free_energy(grid, squared, ratio).argmin())
        left, right = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
    return unit * math.exp(0.5 * (left + right))


def _evb_threshold(ratio: float) -> float:
    """x̄ = (1 + τ̄)(1 + a/τ̄), where a component starts to pay (Nakajima et al. 2013, eq. 18)."""
    turning = evb_turning_point(ratio)
    return (1.0 + turning) * (1.0 + ratio / turning)


@lru_cache(maxsize=4096)
def evb_turning_point(ratio: float) -> float:
    """τ̄ > 0 with ln(τ̄+1) + a·ln(τ̄/a+1) = τ̄, by bisection to rounding. The
    paper approximates it by 2.5129·√a, which is exact at a = 1 and 3 % low at a = 0.1."""
    low, high = math.sqrt(ratio), 3.0  # the left side is above the right one, then below it
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            return middle
        if math.log1p(middle) + ratio * math.log1p(middle / ratio) > middle:
            low = middle
        else:
            high = middle


def _free_energy(log_variances: Tensor, squared: Tensor, ratio: float) -> Tensor:
    """(g,) free energy of each noise variance, less Σ ln(σ²/M), which no variance changes and
    which zeros would make infinite. squared: (L,) σ²/M."""
    scaled = squared / log_variances.exp()[:, None]
    threshold = _evb_threshold(ratio)
    middle = scaled.clamp_min(threshold) - 1.0 - ratio
    tau = 0.5 * (middle + (middle.square() - 4.0 * ratio).sqrt())
    gain = tau - tau.log1p() - ratio * (tau / ratio).log1p()
    kept = torch.where(scaled > threshold, gain, 0.0)
    return (scaled + log_variances[:, None] - kept).sum(1)
