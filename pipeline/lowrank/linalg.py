"""Eigenbases from Gram matrices, in float64: the one decomposition everything rests on."""

from __future__ import annotations

import torch
from tensorly import set_backend
from tensorly.base import unfold as _tl_unfold
from torch import Tensor

set_backend("pytorch")


def unfold(kernel: Tensor, mode: int) -> Tensor:
    """The mode-`mode` unfolding (size of that mode × all the others)."""
    unfolded = _tl_unfold(kernel, mode)
    assert isinstance(unfolded, Tensor)
    return unfolded


def left_eigenbasis(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular basis and squared singular values of an (m, n) matrix, float64.

    Returns (eigenvalues (m,) descending and ≥ 0, basis (m, m) with orthonormal columns), from
    `eigh` of the m×m Gram matrix: for m ≤ n it costs a fraction of an SVD and gives Σ_{i>k}λᵢ
    to rounding. Squaring halves the digits of *small* values: singular values below
    1e-8·σ₁ are noise, which no tail sum at float32 accuracy can see.
    """
    wide = matrix.to(torch.float64)
    eigenvalues, basis = torch.linalg.eigh(wide @ wide.T)
    # A fixed sign (largest entry of each column positive) makes factors reproducible.
    flipped = basis.flip(1)
    pivot = flipped.gather(0, flipped.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(pivot < 0, -1.0, 1.0).to(torch.float64)
    return eigenvalues.flip(0).clamp_min(0.0), flipped * signs


def tails(squared: Tensor) -> Tensor:
    """(n,) squared singular values → (n+1,) tail sums: entry k is Σ_{i>k}σᵢ², the last is 0.

    Summed from the smallest value up, so that tiny tails keep their digits.
    """
    summed = squared.flip(0).cumsum(0).flip(0)
    return torch.cat([summed, summed.new_zeros(1)])


def relative_error(dense: Tensor, approximation: Tensor) -> float:
    """‖W − Ŵ‖_F / ‖W‖_F in float64; 0 for two zero tensors, inf for an error on a zero W."""
    exact = dense.to(torch.float64)
    error = torch.linalg.vector_norm(exact - approximation.to(torch.float64)).item()
    norm = torch.linalg.vector_norm(exact).item()
    if norm == 0.0:
        return 0.0 if error == 0.0 else float("inf")
    return float(error / norm)
