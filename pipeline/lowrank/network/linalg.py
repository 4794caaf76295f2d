"""Eigenbases from Gram matrices, in float64: the one decomposition that all methods rest on; and
factors with the same product, balanced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

_WEAK = 1e-3  # below this part of σ₁ the columns of W·V are no longer orthogonal enough
_BLOCK = 512  # rows of a Gram matrix that are computed at a time
_TILTED = 1e-11  # the most that a direction may have of another one
_NULL = 1e-12  # below this part of σ₁ a column of W·V is rounding


def split_groups(weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, *kernel) → (groups, out / groups, in / groups, *kernel), a view."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def chosen(weight: Tensor, axis: int, index: Tensor) -> Tensor:
    """The entries `index` of a weight (out, in / groups, *kernel) along its outputs (axis 0) or
    inputs (axis 1): (n,), or (groups, n) of each group its own."""
    if index.dim() == 1:
        return weight.index_select(axis, index)
    apart = split_groups(weight, len(index))
    pairs = zip(apart, index, strict=True)
    return torch.stack([one.index_select(axis, own) for one, own in pairs]).flatten(0, 1)


def put(weight: Tensor, axis: int, index: Tensor, values: Tensor) -> Tensor:
    """A copy of a weight with `values` in the places that `chosen` reads."""
    if index.dim() == 1:
        return weight.index_copy(axis, index, values)
    groups = len(index)
    parts = zip(split_groups(weight, groups), index, split_groups(values, groups), strict=True)
    found = [one.index_copy(axis, own, new) for one, own, new in parts]
    return torch.stack(found).flatten(0, 1)


def unfold(kernel: Tensor, mode: int) -> Tensor:
    """The mode-`mode` unfolding of each group, as tensorly.base.partial_unfold with skip_begin=1.

    kernel: (groups, *sizes).
    mode: 0-based, of the sizes.

    Returns (groups, size of that mode, product of the others).
    """
    return _partial_unfold()(kernel, mode, skip_begin=1)


@cache
def _partial_unfold() -> Callable[..., Tensor]:
    """TensorLy's, imported late: with SciPy it takes 0.7 s, which a process that factorizes
    nothing saves."""
    from tensorly import set_backend
    from tensorly.base import partial_unfold

    set_backend("pytorch")
    found: Callable[..., Tensor] = partial_unfold
    return found


def left_eigenbasis(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular basis and squared singular values of (…, m, n) matrices, as U and S² of
    torch.linalg.svd(matrix, full_matrices=False), float64.

    Returns (eigenvalues (…, r) descending and ≥ 0, basis (…, m, r) with orthonormal columns, the
    largest entry of each positive), r = min(m, n). They come from `eigh` of the smaller Gram
    matrix, which costs a fraction of an SVD and gives Σ_{i>k}λᵢ to rounding. Squaring halves the
    digits of *small* values: singular values below 1e-8·σ₁ are noise, which no tail sum at float32
    accuracy can see. A tall matrix (m > n) gives zero columns for its null directions.
    """
    exact = matrix.to(torch.float64)
    tall = exact.shape[-2] > exact.shape[-1]
    eigenvalues, vectors = _eigh(exact.mT @ exact if tall else exact @ exact.mT)
    eigenvalues, vectors = eigenvalues.flip(-1).clamp_min(0.0), vectors.flip(-1)
    vectors = with_fixed_signs(vectors)
    return eigenvalues, _left_of_right(exact, vectors) if tall else vectors


def with_fixed_signs(vectors: Tensor) -> Tensor:
    """(…, m, r) vectors as columns, the largest entry of each positive, which makes factors
    reproducible."""
    pivot = vectors.gather(-2, vectors.abs().argmax(dim=-2, keepdim=True))
    return vectors * torch.where(pivot < 0, -1.0, 1.0).to(vectors.dtype)


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """As torch.linalg.eigh; a batch of one as the one that it is, which on a GPU goes another way,
    many times faster."""
    if gram.dim() == 3 and len(gram) == 1:
        values, vectors = torch.linalg.eigh(gram[0])
        return values[None], vectors[None]
    values, vectors = torch.linalg.eigh(gram)
    return values, vectors


def leading(matrix: Tensor, rank: int) -> tuple[float, Tensor]:
    """The leading left singular directions of each group's matrix.

    matrix: (groups, m, n).
    rank: how many; zero columns fill up where a matrix has fewer.

    Returns (their energy Σσᵢ², summed over the groups; the directions (groups, m, rank)), float64.
    """
    eigenvalues, basis = left_eigenbasis(matrix)
    missing = max(0, rank - basis.shape[-1])
    return (
        eigenvalues[..., :rank].sum().item(),
        torch.nn.functional.pad(basis[..., :rank], (0, missing)),
    )


def _left_of_right(matrix: Tensor, right: Tensor) -> Tensor:
    """The left singular vectors W·v/σ of tall matrices (groups, m, n), columns descending.

    Rounding tilts two of them towards each other by about eps·σ₁²/(σᵢσⱼ), so the weak ones
    are made orthogonal again.
    """
    scaled = matrix @ right
    norms = torch.linalg.vector_norm(scaled, dim=-2, keepdim=True)
    largest = norms.amax(-1, keepdim=True)
    alive = norms > _NULL * largest
    basis = scaled.mul_(torch.where(alive, 1.0 / norms, 0.0))
    weak = alive & (norms < _WEAK * largest)
    each = zip(
        basis.reshape(-1, *matrix.shape[-2:]), weak.reshape(-1, matrix.shape[-1]), strict=True
    )
    for columns, chosen in each:
        if not chosen.any():
            continue
        strong, tilted = columns[:, ~chosen], columns[:, chosen]
        for _ in range(2):  # one projection leaves eps / _WEAK, two leave eps
            tilted = tilted - strong @ (strong.T @ tilted)
        found = torch.linalg.qr(tilted).Q
        if (strong.T @ found).abs().max() > _TILTED:
            # Of weak columns that depend on each other QR makes rounding a direction, which may lie
            # in the span of the strong ones.
            found = torch.linalg.qr(torch.cat([strong, found], 1)).Q[:, strong.shape[1] :]
        columns[:, chosen] = found
    return basis


def gram_of_smaller_side(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The lower triangle of W·Wᵀ of an (m, n) matrix, m ≤ n, else of Wᵀ·W, computed in `dtype`, a
    block of rows at a time; above it is nothing that counts. It is what `eigh` reads, for little
    more than half of the product."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).to(dtype)
    gram = wide.new_zeros(len(wide), len(wide))
    for start in range(0, len(wide), _BLOCK):
        rows = slice(start, start + _BLOCK)
        gram[start:, rows] = wide[start:] @ wide[rows].mT
    return gram


def singular_values(matrix: Tensor) -> Tensor:
    """(min(m, n),) singular values of an (m, n) matrix, descending, float64; as
    torch.linalg.svdvals. They come from the smaller Gram matrix: those below 1e-8·σ₁ are noise, as
    in `left_eigenbasis`. They are on the CPU."""
    wide = matrix.to(torch.float64)
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.flip(0).clamp_min(0.0).sqrt().cpu()


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


def balance(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors with the same product, the singular values of their matrices spread evenly, √σ on
    each: such factors round best in low precision and train best by SGD, since the step that a
    factor bears shrinks with the square of the other.

    first: (groups · r, in, *kernel), the matrix r × rest; last: (groups · out, r, *kernel), the
        matrix rest × r; r is at most either rest.

    Returns (first, last) in their shapes.
    """
    groups = first.shape[0] // last.shape[1]
    right = split_groups(first, groups).flatten(2)
    left = unfold(split_groups(last, groups), 1).mT
    left_basis, left_rest = torch.linalg.qr(left)
    right_basis, right_rest = torch.linalg.qr(right.mT)
    outer, values, inner = torch.linalg.svd(left_rest @ right_rest.mT)
    root = values.sqrt()
    right = (root[..., :, None] * inner) @ right_basis.mT
    left = (left_basis @ (outer * root[..., None, :])).mT
    rank, (_, _, *kernel) = left.shape[1], last.shape
    spread = left.reshape(groups, rank, -1, *kernel).movedim(1, 2)
    return right.reshape(first.shape), spread.reshape(last.shape)


def balance_around(
    first: Tensor, core: Tensor, last: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `balance`, for a core between two factors, all of them kernels of `groups` groups: the
    outer factors become orthonormal bases, and the largest singular value that the core then has as
    a matrix out × rest is spread evenly over the three.

    Returns (first, core, last) in their shapes.
    """
    in_basis, in_rest = torch.linalg.qr(split_groups(first, groups).flatten(2).mT)
    out_basis, out_rest = torch.linalg.qr(split_groups(last, groups).flatten(2))
    kernel = split_groups(core, groups)
    kernel = torch.einsum("gpo,goi...,gji->gpj...", out_rest, kernel, in_rest)
    largest = torch.linalg.matrix_norm(unfold(kernel, 0), 2)[:, None, None]
    each = largest ** (1 / 3)
    scale = torch.where(largest > 0, each / largest, 0.0)
    kernel = kernel * scale.reshape(groups, *[1] * (kernel.ndim - 1))
    return (
        (in_basis * each).mT.reshape(first.shape),
        kernel.reshape(core.shape),
        (out_basis * each).reshape(last.shape),
    )


def balance_components(factors: Sequence[Tensor]) -> list[Tensor]:
    """The factors of a CP, each (groups, size, rank), with the norm of each component spread evenly
    over its three factors; the product stays the same."""
    norms = [torch.linalg.vector_norm(f, dim=-2, keepdim=True) for f in factors]
    even = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    return [f * torch.where(n > 0, even / n, 0.0) for f, n in zip(factors, norms, strict=True)]
