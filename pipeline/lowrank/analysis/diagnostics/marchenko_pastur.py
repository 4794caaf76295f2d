"""The Marchenko–Pastur law: the spectrum of a matrix of independent entries.

Two scales, never mixed. For an (m, n) matrix, m ≤ n, of independent entries with variance s²
*singular values* lie in s·(√n ± √m), and *eigenvalues* of WWᵀ/n in s²·(1 ± √β)², β = m/n. The
law below is that of the eigenvalues for s = 1; a singular value σ is the point σ²/(n·s²) of it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def support(beta: float) -> tuple[float, float]:
    """((1 − √β)², (1 + √β)²): where the eigenvalues of WWᵀ/n lie for s = 1. β = m/n in (0, 1]."""
    return (1.0 - math.sqrt(beta)) ** 2, (1.0 + math.sqrt(beta)) ** 2


def density(eigenvalues: Tensor, beta: float) -> Tensor:
    """√((b−x)(x−a)) / (2πβx) on the support [a, b], 0 elsewhere (Marchenko & Pastur 1967).

    eigenvalues: any shape, of WWᵀ/n at s = 1.
    beta: β = m/n in (0, 1].

    Returns the same shape.
    """
    low, high = support(beta)
    inside = ((high - eigenvalues) * (eigenvalues - low)).clamp_min(0.0).sqrt()
    # At x = 0, the pole of β = 1, `inside` is 0 too: any positive divisor gives 0 there.
    divisor = 2.0 * math.pi * beta * eigenvalues.clamp_min(torch.finfo(torch.float64).tiny)
    return inside / divisor


def cdf(eigenvalues: Tensor, beta: float) -> Tensor:
    """∫ density up to each eigenvalue, in closed form; same shape, float64.

    With x = 1 + β + 2√β·cos θ the density becomes (2/π)·sin²θ/x dθ, whose integral from θ to π
    is elementary. Exact to about 1e-16/β.
    """
    centre, half = 1.0 + beta, 2.0 * math.sqrt(beta)
    cosine = ((eigenvalues.to(torch.float64) - centre) / half).clamp(-1.0, 1.0)
    theta = cosine.acos()

    def primitive(angle: Tensor) -> Tensor:
        # tan(θ/2) by atan2, which is exact at θ = π.
        turned = torch.atan2(
            (1.0 - math.sqrt(beta)) * (angle / 2).sin(), (1.0 + math.sqrt(beta)) * (angle / 2).cos()
        )
        return centre * angle - half * angle.sin() - 2.0 * (1.0 - beta) * turned

    whole = torch.tensor(math.pi, dtype=torch.float64)
    return (primitive(whole) - primitive(theta)) * 2.0 / (math.pi * half**2)


@lru_cache(maxsize=4096)
def median(beta: float) -> float:
    """μ_β, the median of the law, by bisection of its cdf to rounding; it tends to 1 as β → 0."""
    low, high = support(beta)
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            return middle
        if cdf(torch.tensor(middle, dtype=torch.float64), beta) < 0.5:
            low = middle
        else:
            high = middle
