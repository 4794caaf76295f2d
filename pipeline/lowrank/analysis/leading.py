"""Spectra of large matrices for a part of the price: the values alone, which cost a quarter of an
eigendecomposition, and later the few directions that a plan asks for, by a decomposition in float32
that the values in float64 certify."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pipeline.lowrank.network.linalg import (
    gram_of_smaller_side,
    left_eigenbasis,
    with_fixed_signs,
)

# By how much a truncation may miss the least error of its rank, relative to ‖W‖: what squares leave
# in float64. Where float32 misses it by more, float64 does the whole.
TOLERANCE = 1e-8


def squared_values(matrices: Tensor) -> Tensor:
    """(r,) squared singular values of (groups, m, n) matrices, r = min(m, n), descending and ≥ 0,
    the i-th ones summed over the groups, float64, on the CPU. They equal the eigenvalues of
    `left_eigenbasis` to the rounding of float64."""
    total = torch.zeros(min(matrices.shape[1:]), dtype=torch.float64)
    for matrix in matrices:  # one at a time: what is held is the work on one
        values = torch.linalg.eigvalsh(gram_of_smaller_side(matrix, torch.float64))
        total += values.flip(0).clamp_min(0.0).cpu()
    return total


def leading_basis(matrices: Tensor, squares: Tensor, rank: int, name: str) -> Tensor:
    """The leading left singular directions of each of (groups, m, n) matrices, (groups, m, rank)
    float64 with orthonormal columns, the largest entry of each positive.

    squares: (r,) what `squared_values` says of them. name: of the layer, for the warning.

    The directions come from a float32 decomposition of the Gram matrix and are made orthonormal in
    float64. What they miss of the energy Σ_{i≤rank}λᵢ is known to float64 (Ky Fan: no other
    directions hold more), so that ‖W − UUᵀW‖ is proven to be at most 10⁻⁸·‖W‖ above the least
    error of this rank. Else all is done in float64, as `left_eigenbasis` does it, with a warning.
    """
    parts, held = [], 0.0
    for matrix in matrices:
        found = _in_float32(matrix, rank)
        if found is None:
            break
        parts.append(found[0])
        held += found[1]
    total, most = squares.sum().item(), squares[:rank].sum().item()
    tail, missed = squares[rank:].sum().item(), max(0.0, most - held)
    excess = missed / ((tail + missed) ** 0.5 + tail**0.5) if missed else 0.0
    if len(parts) == len(matrices) and excess <= TOLERANCE * total**0.5:
        return torch.stack(parts)
    warnings.warn(
        f"layer {name!r}: {rank} directions in float32 miss the least error by more than 1e-8 of "
        "the norm; they are computed in float64, which takes longer",
        stacklevel=2,
    )
    return torch.stack([left_eigenbasis(matrix)[1][:, :rank] for matrix in matrices])


def _in_float32(matrix: Tensor, rank: int) -> tuple[Tensor, float] | None:
    """(orthonormal directions (m, rank) float64, at most the energy that they hold); None where
    float32 does not tell them apart."""
    rows, columns = matrix.shape
    largest = matrix.abs().max()
    if not largest > 0:
        return None
    scaled = matrix.to(torch.promote_types(matrix.dtype, torch.float32)) / largest
    gram = gram_of_smaller_side(scaled, torch.float32)
    directions = torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(-1)
    del scaled, gram
    small = _orthonormal(directions.to(torch.float64))
    if small is None:
        return None
    exact = matrix.to(torch.float64)
    if rows <= columns:
        return with_fixed_signs(small), float((small.mT @ exact).square().sum())
    # W·V holds what V does, and its span at least as much.
    turned = exact @ small
    left = _orthonormal(turned)
    return None if left is None else (with_fixed_signs(left), float(turned.square().sum()))


def _orthonormal(columns: Tensor) -> Tensor | None:
    """The columns made orthonormal in their order by Cholesky's factor of their Gram matrix, which
    loses nothing where they nearly are already; None where they are not."""
    lengths = torch.linalg.vector_norm(columns, dim=0)
    if not lengths.min() > 0:
        return None
    columns = columns / lengths
    gram = columns.mT @ columns
    apart = gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    if not torch.linalg.matrix_norm(apart) < 0.1:
        return None
    root = torch.linalg.cholesky(gram)
    found: Tensor = torch.linalg.solve_triangular(root.mT, columns, upper=True, left=False)
    return found
