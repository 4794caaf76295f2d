"""Spectral norms from above, of matrices and of stacks of matrices.

Only an upper bound certifies. Power iteration bounds from below: it says which matrices to try
first, and which are not worth trying.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EPS = torch.finfo(torch.float64).eps
EXACT_UP_TO = 512  # smaller side of a matrix whose norm LAPACK still finds within a second
_GRAM_STEPS = 9  # a spectrum of equal values leaves the bound above by m^(1/2^10): 0.8 % at 4096
_POWER_STEPS = 8
_CLOSE = 1e-3  # and iteration ends when upper and lower bound differ by less


@dataclass(frozen=True)
class Norm:
    """A certified bound `value` ≥ the true norm, and the `theorem` that gave it."""

    value: float
    theorem: str

    def scaled(self, factor: float) -> Norm:
        """The bound times `factor` ≥ 0."""
        return Norm(self.value * factor, self.theorem)


def spectral_norm(matrix: Tensor) -> Norm:
    """‖A‖₂ of an (m, n) matrix, as torch.linalg.matrix_norm(matrix, 2), from above; see
    `largest_norm`."""
    return largest_norm([matrix[None]])


def largest_norm(stacks: Iterable[Tensor]) -> Norm:
    """The largest ‖·‖₂ of all matrices, as torch.linalg.matrix_norm(stack, 2).max(), from above,
    float64.

    stacks: (f, m, n) each, real or complex.

    With the smaller side ≤ `EXACT_UP_TO` it is the largest singular value itself ("svd", by the
    eigenvalues of A·Aᴴ, where the *largest* loses no digits); else Gram iteration ("gram": Delattre
    et al. 2023, ‖A‖₂ ≤ ‖(AAᴴ)^(2^t)‖_F^(1/2^(t+1)), rescaled at every step against overflow).
    Matrices that cannot hold the maximum are dropped on the way. The value is rounded up by what
    the arithmetic can lose.
    """
    best, theorem, terms = 0.0, "svd", 1
    for stack in stacks:
        gram, scale = _gram(stack)
        small, large = sorted(stack.shape[-2:])
        # A·Aᴴ is off by n·ε·‖A‖_F² ≤ m·n·ε·‖A‖₂², a factorization of it by m²·ε·‖A‖₂².
        terms = max(terms, small * large)
        if small <= EXACT_UP_TO:
            best = _exact(gram, scale, best)
        elif len(scale):
            theorem = "gram"
            best = max(best, _iterate(gram, scale))
    return Norm(best * (1.0 + 4 * terms * EPS), theorem)


def norm_from_below(matrix: Tensor) -> float:
    """A lower bound on ‖A‖₂ of an (m, n) matrix by a few power steps; it certifies nothing."""
    vector = matrix.sum(0) + matrix[0]
    for _ in range(_POWER_STEPS):
        vector = matrix.T @ (matrix @ functional.normalize(vector, dim=0))
    return float((matrix @ functional.normalize(vector, dim=0)).norm())


def absolute_norm(row_sum: float, column_sum: float) -> float:
    """√(‖A‖_∞·‖A‖₁) ≥ ‖|A|‖₂, from the largest absolute row and column sum (Schur's test)."""
    return math.sqrt(row_sum * column_sum)


def _gram(stack: Tensor) -> tuple[Tensor, Tensor]:
    """(AAᴴ/‖A‖_F² on the smaller side (f, m, m), ‖A‖_F (f,)); zero matrices are left out."""
    wide = stack if stack.is_complex() else stack.to(torch.float64)
    if wide.shape[-2] > wide.shape[-1]:
        wide = wide.mH
    # Largest number first: the squares of ‖·‖_F must neither overflow nor vanish.
    peak = (torch.view_as_real(stack) if stack.is_complex() else wide).abs().max().item()
    if peak == 0.0:
        return wide.new_zeros(0, 1, 1), torch.zeros(0, dtype=torch.float64)
    wide = wide / peak
    gram = wide @ wide.mH
    squared = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    seen = squared > 0
    gram, squared = gram[seen], squared[seen]
    return gram / squared[:, None, None], squared.sqrt() * peak


def _exact(gram: Tensor, scale: Tensor, best: float) -> float:
    """max(best, scale·√λ₁) over matrices G (f, m, m) of trace 1.

    Eigenvalues only of the most promising matrix that is left; then Cholesky's factorization
    of (best/scale)²·I − G, which exists only where G is not larger, drops the others.
    """
    promise, size = scale * _power(gram), gram.shape[-1]
    eye = torch.eye(size, dtype=gram.dtype) * (1.0 + 4 * size**2 * EPS)  # drops equal ones too
    kept = scale > best  # λ₁ ≤ 1
    while kept.any():
        gram, scale, promise = gram[kept], scale[kept], promise[kept]
        first = int(promise.argmax())
        largest = torch.linalg.eigvalsh(gram[first])[-1].clamp_min(0.0).sqrt() * scale[first]
        best = max(best, largest.item())
        level = (best / scale).square()[:, None, None].to(gram.dtype)
        kept = torch.linalg.cholesky_ex(level * eye - gram).info != 0
        kept[first] = False
    return best


def _power(gram: Tensor) -> Tensor:
    """(f,) estimates of √λ₁, none above it."""
    vector = gram.sum(-1, keepdim=True) + gram[..., :1]
    for _ in range(_POWER_STEPS):
        vector = gram @ functional.normalize(vector, dim=-2)
    estimates: Tensor = torch.linalg.vector_norm(vector, dim=(-2, -1)).sqrt()
    return estimates


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
