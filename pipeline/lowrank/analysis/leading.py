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

# Of a weight in the metric `input` or `fisher` a few directions often hold so much that float32
# loses weak ones beside them. Up to _FEW are found apart, in float64, by _ROUNDS of an iteration of
# _BLOCK vectors, where float32 might lose more than the tolerance allows.
_FEW, _BLOCK, _ROUNDS = 16, 48, 6
_DOUBT = 1e-3  # of what is allowed: what float32 loses was found to be up to 700 times the estimate


def squared_values(matrices: Tensor) -> Tensor:
    """(r,) squared singular values of (groups, m, n) matrices, r = min(m, n), descending and ≥ 0,
    the i-th ones summed over the groups, float64, on the CPU. They equal the eigenvalues of
    `left_eigenbasis` to the rounding of float64."""
    total = torch.zeros(min(matrices.shape[1:]), dtype=torch.float64)
    for matrix in matrices:  # one at a time: what is held is the work on one
        values = torch.linalg.eigvalsh(gram_of_smaller_side(matrix, torch.float64))
        total += values.flip(0).clamp_min(0.0).cpu()
    return total


def truncated(matrices: Tensor, squares: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor]:
    """The truncation U·right of each of (groups, m, n) matrices W: (their leading left singular
    directions (groups, m, rank) with orthonormal columns, the largest entry of each positive; the
    other factor (groups, rank, n)), float64.

    squares: (r,) what `squared_values` says of them. name: of the layer, for the warning.

    The directions come from a float32 decomposition of the Gram matrix, but for strong ones beside
    which it would lose weak ones, and are made orthonormal in float64. What they miss of the energy
    Σ_{i≤rank}λᵢ is known to float64 (Ky Fan: no other directions hold more), so that ‖W − U·right‖
    is proven to be at most 10⁻⁸·‖W‖ above the least error of this rank. Else all is done in
    float64, as `left_eigenbasis` does it, with a warning.
    """
    parts, held = [], 0.0
    for matrix in matrices:
        found = _in_float32(matrix, rank, _strong(squares, rank))
        if found is None:
            break
        parts.append(found[:2])
        held += found[2]
    total, most = squares.sum().item(), squares[:rank].sum().item()
    tail, missed = squares[rank:].sum().item(), max(0.0, most - held)
    excess = missed / ((tail + missed) ** 0.5 + tail**0.5) if missed else 0.0
    if len(parts) == len(matrices) and excess <= TOLERANCE * total**0.5:
        bases, rights = zip(*parts, strict=True)
        return torch.stack(bases), torch.stack(rights)
    warnings.warn(
        f"layer {name!r}: {rank} directions in float32 miss the least error by more than 1e-8 of "
        "the norm; they are computed in float64, which takes longer",
        stacklevel=2,
    )
    basis = torch.stack([left_eigenbasis(matrix)[1][:, :rank] for matrix in matrices])
    return basis, basis.mT @ matrices.to(torch.float64)


def _strong(squares: Tensor, rank: int) -> int:
    """How many of the strongest directions to find apart, so that least is lost by the estimates:
    of λᵢ, found apart, λᵢ·(λᵣ/λᵢ)^(2·rounds + 1), and by the rounding of float32 beside the
    strongest λ that is left, eps²·λ²/λᵣ."""
    if not _BLOCK <= rank < len(squares) or not squares[rank - 1] > 0:
        return 0
    eps, few = torch.finfo(torch.float32).eps, squares[:_FEW]
    lost = eps**2 * squares[: _FEW + 1].square() / squares[rank - 1]
    allowed = 2 * TOLERANCE * (squares.sum() * squares[rank:].sum()).sqrt()
    if lost[0] <= _DOUBT * allowed:
        return 0
    lost[1:] += few * (squares[rank] / few) ** (2 * _ROUNDS + 1)
    return int(lost.argmin())


def _strongest(exact: Tensor, count: int) -> Tensor:
    """(m, count) the leading left singular directions of an (m, n) matrix, float64, by subspace
    iteration (Halko, Martinsson & Tropp 2011)."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        found: Tensor = torch.svd_lowrank(exact, q=_BLOCK, niter=_ROUNDS)[0]
    return found[:, :count]


def _in_float32(matrix: Tensor, rank: int, strong: int) -> tuple[Tensor, Tensor, float] | None:
    """(orthonormal directions (m, rank), the other factor (rank, n), the energy that their product
    holds of the matrix), float64; None where float32 does not tell the directions apart. strong: as
    `_strong` says."""
    rows, columns = matrix.shape
    small = _directions(matrix if rows <= columns else matrix.mT, rank, strong)
    if small is None:
        return None
    exact = matrix.to(torch.float64)
    if rows <= columns:
        left = with_fixed_signs(small)
        right = left.mT @ exact
        return left, right, float(right.square().sum())
    # W·V = U·R, and so the projection W·V·Vᵀ is U·(R·Vᵀ).
    turned = exact @ small
    parts = _orthonormal(turned)
    if parts is None:
        return None
    left, root = parts
    fixed = with_fixed_signs(left)
    signs = (fixed * left).sum(0).sign()
    return fixed, signs[:, None] * (root @ small.mT), float(turned.square().sum())


def _directions(wide: Tensor, rank: int, strong: int) -> Tensor | None:
    """(m, rank) orthonormal columns near the leading left directions of an (m, n) matrix, m ≤ n,
    float64; None where float32 does not tell them apart. The `strong` first ones are found in
    float64, and float32 sees the matrix without them."""
    first = wide.new_empty(len(wide), 0, dtype=torch.float64)
    if strong:
        exact = wide.to(torch.float64)
        first = _strongest(exact, strong)
        wide = exact - first @ (first.mT @ exact)
        del exact
    largest = wide.abs().max()
    if not largest > 0:
        return None
    scaled = wide.to(torch.promote_types(wide.dtype, torch.float32)) / largest
    gram = gram_of_smaller_side(scaled, torch.float32)
    others = torch.linalg.eigh(gram).eigenvectors[:, strong - rank :].flip(-1)
    del scaled, gram, wide
    apart = _orthonormal(torch.cat([first, others.to(torch.float64)], 1))
    return None if apart is None else apart[0]


def _orthonormal(columns: Tensor) -> tuple[Tensor, Tensor] | None:
    """(Q, R) with Q·R the columns, Q orthonormal and R upper triangular, by Cholesky's factor of
    their Gram matrix, which loses nothing where they nearly are orthogonal; None where they are
    not."""
    lengths = torch.linalg.vector_norm(columns, dim=0)
    if not lengths.min() > 0:
        return None
    columns = columns / lengths
    gram = columns.mT @ columns
    apart = gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    if not torch.linalg.matrix_norm(apart) < 0.1:
        return None
    root = torch.linalg.cholesky(gram).mT
    found = torch.linalg.solve_triangular(root, columns, upper=True, left=False)
    return found, root * lengths
