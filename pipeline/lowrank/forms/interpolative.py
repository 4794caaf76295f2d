"""Interpolative decomposition: rows of a matrix that all others are combinations of."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 3.0  # bound on the coefficients, so that low precision loses little
_SWAPS = 1000
_DEPENDENT = 1e-8  # a column with less of its length outside the columns before it depends on them


def pivot_rows(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a matrix (m, r), m ≥ r, rank at most r, that all others are combinations of; as
    scipy.linalg.interpolative.interp_decomp of its transpose. Returns float64 (pivots (r,)
    ascending, coefficients (m − r, r), basis (r, r)) with matrix[pivots] = basis and matrix[others]
    = coefficients · basis, others ascending.

    Pivots come from LU with partial pivoting and are then exchanged while that enlarges the volume
    (Goreinov et al. 2010), until no coefficient is larger than 3: well conditioned.
    """
    rows, rank = matrix.shape
    if rank == 0 or rows == rank:
        return torch.arange(rank), matrix.new_zeros(rows - rank, rank), matrix
    if not bool(matrix.any()):
        return torch.arange(rank), matrix.new_zeros(rows - rank, rank), matrix[:rank]
    # Partial pivoting chooses the same rows for any triangular mixture of the columns, so there is
    # no need of an orthonormal basis, but where the columns do not determine their span.
    span = matrix
    lower, exchanges, _ = torch.linalg.lu_factor_ex(span)
    left = lower.diagonal().abs()
    if bool((left <= _DEPENDENT * torch.linalg.vector_norm(span, dim=0)).any()):
        span, _ = torch.linalg.qr(matrix)
        lower, exchanges = torch.linalg.lu_factor(span)
    places = list(range(rows))  # row of the matrix at each place of L·U
    for row, other in enumerate((exchanges - 1).tolist()):
        places[row], places[other] = places[other], places[row]
    order = torch.tensor(places)
    coefficients = torch.eye(rows, rank, dtype=span.dtype, device=span.device)
    coefficients[rank:] = torch.linalg.solve_triangular(
        lower[:rank], lower[rank:], upper=False, left=False, unitriangular=True
    )
    for _ in range(_SWAPS):
        largest, where = coefficients[rank:].abs().flatten().max(0)
        if largest <= _LARGEST:
            break
        row, column = rank + int(where) // rank, int(where) % rank
        # Exchange: row `row` becomes pivot `column` (a rank-one update of all coefficients).
        pivot = coefficients[row, column]
        change = coefficients[row].clone()
        change[column] -= 1.0
        coefficients -= torch.outer(coefficients[:, column] / pivot, change)
        order[[row, column]] = order[[column, row]]
        coefficients[[row, column]] = coefficients[[column, row]]
    pivots, place = order[:rank].sort()
    other_place = order[rank:].argsort()
    return pivots, coefficients[rank:][other_place][:, place], matrix[pivots]
