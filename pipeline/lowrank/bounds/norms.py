"""Spectral norms from above: of matrices, and of stacks of matrices.

Only an upper bound certifies. Power iteration bounds from below and is used nowhere here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
EXACT_UP_TO = 512  # smaller side of a matrix whose norm LAPACK still finds within a second
_GRAM_STEPS = 9  # a spectrum of equal values leaves the bound above by m^(1/2^10): 0.8 % at 4096
_CLOSE = 1e-3  # and iteration ends when upper and lower bound differ by less


@dataclass(frozen=True)
class Norm:
    """A certified bound `value` ≥ the true norm, and the `theorem` that gave it."""

    value: float
    theorem: str

    def scaled(self, factor: float) -> Norm:
        return Norm(self.value * factor, self.theorem)


def spectral_norm(matrix: Tensor) -> Norm:
    """‖A‖₂ of an (m, n) matrix from above; see `largest_norm`."""
    return largest_norm([matrix[None]])


def largest_norm(stacks: Iterable[Tensor]) -> Norm:
    """max over all matrices of ‖·‖₂ from above, for stacks (f, m, n), real or complex.

    Float64. With the smaller side ≤ `EXACT_UP_TO` it is the largest singular value itself
    ("svd", by the eigenvalues of A·Aᴴ, where the *largest* loses no digits); else Gram
    iteration ("gram": Delattre et al. 2023, ‖A‖₂ ≤ ‖(AAᴴ)^(2^t)‖_F^(1/2^(t+1)), rescaled at
    every step against overflow). Matrices that cannot hold the maximum are dropped on the way.
    The value is rounded up by what the arithmetic can lose.
    """
    best, theorem, terms = 0.0, "svd", 1
    for stack in stacks:
        gram, scale = _gram(stack)
        terms = max(terms, *stack.shape[-2:])
        gram, scale = _drop(gram, scale, scale, best)
        if len(scale) == 0:
            continue
        if gram.shape[-1] <= EXACT_UP_TO:
            gram, scale = _candidates(gram, scale, best)
            norms = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0.0).sqrt() * scale
            best = max(best, norms.max().item()) if len(scale) else best
        else:
            theorem = "gram"
            best = max(best, _iterate(gram, scale))
    return Norm(best * (1.0 + 4 * terms * EPS), theorem)


def absolute_norm(row_sum: float, column_sum: float) -> float:
    """‖|A|‖₂ ≤ √(‖A‖_∞·‖A‖₁), from the largest absolute row and column sum (Schur's test)."""
    return math.sqrt(row_sum * column_sum)


def _gram(stack: Tensor) -> tuple[Tensor, Tensor]:
    """(AAᴴ/‖A‖_F² on the smaller side (f, m, m), ‖A‖_F (f,)); zero matrices are left out."""
    wide = stack if stack.is_complex() else stack.to(torch.float64)
    if wide.shape[-2] > wide.shape[-1]:
        wide = wide.mH
    # Largest entry first: the squares of ‖·‖_F must neither overflow nor vanish.
    peak = wide.abs().amax(dim=(-2, -1))
    wide, peak = wide[peak > 0], peak[peak > 0]
    wide = wide / peak[:, None, None]
    size = torch.linalg.vector_norm(wide, dim=(-2, -1))
    wide = wide / size[:, None, None]
    return wide @ wide.mH, size * peak


def _drop(gram: Tensor, scale: Tensor, upper: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    kept = upper > floor
    return gram[kept], scale[kept]


def _candidates(gram: Tensor, scale: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Drops matrices whose bound after three Gram steps is below what another surely reaches."""
    power = gram
    log_size = torch.zeros_like(scale)  # G^(2^t) = exp(log_size)·power
    for step in range(3):
        if len(scale) <= 1:
            break
        upper, lower, power, log_size = _step(power, log_size, step)
        kept = scale * upper * (1 + 1e-9) >= max((scale * lower).max().item(), floor)
        gram, scale, power, log_size = (x[kept] for x in (gram, scale, power, log_size))
    return gram, scale


def _iterate(gram: Tensor, scale: Tensor) -> float:
    power, log_size = gram, torch.zeros_like(scale)
    best = math.inf
    for step in range(_GRAM_STEPS):
        upper, lower, power, log_size = _step(power, log_size, step)
        reached = (scale * lower).max().item()
        best = min(best, (scale * upper).max().item())
        if best <= (1 + _CLOSE) * reached:
            break
        kept = scale * upper * (1 + 1e-9) >= reached
        scale, power, log_size = scale[kept], power[kept], log_size[kept]
    return best


def _step(power: Tensor, log_size: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(upper, lower) bounds on √λ₁(G) from P = G^(2^step)/exp(log_size), then P² rescaled.

    λ₁(P) ≤ ‖P‖_F, and λ₁(P) ≥ ‖P‖_F²/tr P, since Σλ² ≤ λ₁Σλ.
    """
    size = torch.linalg.vector_norm(power, dim=(-2, -1))
    trace = power.diagonal(dim1=-2, dim2=-1).sum(-1).real
    root = 0.5**step / 2
    upper = torch.exp(root * (log_size + size.log()))
    lower = torch.exp(root * (log_size + 2 * size.log() - trace.log()))
    power = power / size[:, None, None]
    return upper, lower, power @ power, 2 * (log_size + size.log())
