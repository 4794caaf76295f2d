"""Alternating least squares for the CP of three-way kernels, each group by itself.

`kernel` is (groups, I₀, I₁, I₂), best with I₀ ≥ I₁ ≥ I₂; `factors` are three tensors (groups, Iₘ,
rank), all float64; groups have nothing in common but the rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.network.linalg import balance_components, left_eigenbasis, unfold

_RIDGE = 1e-10  # relative to the mean diagonal: keeps the normal equations solvable
_FASTER, _SLOWER = (
    1.2,
    0.5,
)  # factors of the extrapolation after a sweep that helped, and after another

# Parts of ‖K‖² that the squared norms of the components may add up to. Storing factors with
# relative precision eps disturbs the kernel by about eps·√(3·part)·‖K‖, gradients meet the same
# factor. At 100, cancellation eats one of the 2.4 decimal digits of bfloat16: diverged. Down to
# 10 the correction lowers it: a third of a digit more is not worth error.
_DIVERGED, CALM = 100.0, 10.0


@dataclass(frozen=True)
class Fit:
    """A fitted CP.

    factors: (groups, out / in / taps, rank).
    squared_error: ‖K − K̂‖².
    components: the sum of the squared norms of its components, as a part of ‖K‖².
    """

    rank: int
    factors: list[Tensor]
    squared_error: float
    components: float

    @property
    def diverged(self) -> bool:
        return not self.components <= _DIVERGED


def fit(
    kernel: Tensor,
    factors: Sequence[Tensor],
    *,
    iterations: int,
    tolerance: float,
    penalty: float,
) -> list[Tensor]:
    """Minimises ‖K − ⟦A, B, C⟧‖² + α·sensitivity from the given factors, at most `iterations`
    sweeps, until a sweep gains less than `tolerance`·‖K‖²; the result is never above the start.
    Without penalty as tensorly.decomposition.parafac.

    A best CP of given rank need not exist: components may grow against each other for ever (de
    Silva & Lim 2008), as they do on most kernels of networks. With the sensitivity as a penalty a
    minimum exists, and each factor's update stays a linear system. `penalty` is what the
    sensitivity of components of equal norm and without cancellation would cost, as a part of ‖K‖²;
    that fixes α.

    A sweep starts from factors extrapolated along the last step, which carries it through the long
    flat stretches of plain ALS; when that ends higher, the step is undone and shortened (restarts
    as in Mitchell, Ye & De Sterck 2020). Norms are balanced after each sweep.
    """
    squared = kernel.square().sum().item()
    rank = factors[0].shape[-1]
    healthy = sum(kernel.shape[1:]) * (rank * len(kernel)) ** (1 / 3) * squared ** (2 / 3)
    alpha = penalty * squared / healthy if squared > 0 else 0.0
    best, last, value, step = list(factors), list(factors), float("inf"), 0.5
    for _ in range(iterations):
        start = [f + step * (f - b) for f, b in zip(best, last, strict=True)]
        found, reached = _sweep(kernel, start, squared, alpha)
        if reached > value:
            last, step = best, step * _SLOWER
            continue
        gain, value = value - reached, reached
        last, best, step = best, found, min(step * _FASTER, 1.0)
        if gain <= tolerance * squared:
            break
    return best


def _sweep(
    kernel: Tensor, factors: Sequence[Tensor], squared: float, alpha: float
) -> tuple[list[Tensor], float]:
    """Updates each factor once; returns the factors and the penalised squared error after the last
    update.

    Only two products touch the whole kernel: contracting it with the new first factor serves the
    other two.
    """
    _, second, third = factors
    flat = kernel.flatten(2)
    first = _solve(
        _normal(second, third), flat @ _khatri_rao(second, third), alpha * _weights(second, third)
    )
    narrowed = (first.mT @ flat).reshape(len(kernel), -1, *kernel.shape[2:])  # groups, rank, I₁, I₂
    product = torch.einsum("grij,gjr->gir", narrowed, third)
    second = _solve(_normal(first, third), product, alpha * _weights(first, third))
    product = torch.einsum("grij,gir->gjr", narrowed, second)
    normal = _normal(first, second)
    third = _solve(normal, product, alpha * _weights(first, second))
    error = squared - 2 * (product * third).sum() + (normal * (third.mT @ third)).sum()
    found = balance_components([first, second, third])
    return found, error.item() + alpha * sensitivity(found)


def extend(kernel: Tensor, factors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Factors with `count` more components, the largest of the residual's nested SVD: singular
    directions of mode 1, and for each of them singular directions of the slice that belongs to it.
    All I₁·min(I₀, I₂) of them would give the residual exactly."""
    residual = kernel - reconstruct(factors)
    _, basis = left_eigenbasis(unfold(residual, 1))
    turned = basis.mT @ unfold(residual, 1)
    slices = turned.reshape(*turned.shape[:2], kernel.shape[1], kernel.shape[3])
    energies, thirds = left_eigenbasis(slices.mT)  # groups, direction, (I₂,) number
    firsts = slices @ thirds
    chosen = energies.flatten(1).topk(count, dim=-1).indices
    direction, number = chosen // energies.shape[-1], chosen % energies.shape[-1]
    groups = torch.arange(len(kernel), device=kernel.device)[:, None]
    new = (
        firsts[groups, direction, :, number],
        basis[groups, :, direction],
        thirds[groups, direction, :, number],
    )
    return balance_components([torch.cat([f, n.mT], -1) for f, n in zip(factors, new, strict=True)])


def correct(
    kernel: Tensor, factors: Sequence[Tensor], *, sweeps: int, slack: float
) -> list[Tensor]:
    """Error-preserving correction (Phan, Tichavský & Cichocki 2020): lowers the sensitivity while
    the squared error of each group stays ≤ (1 + slack) times what it is at the start.

    For one factor that is a ridge regression whose weights are the other factors' share in the
    sensitivity and whose strength is the largest that the error allows, found by bisection.
    """
    found = list(factors)
    squared = kernel.square().sum((1, 2, 3))
    error = (kernel - reconstruct(found)).square().sum((1, 2, 3))
    # Never above the zero kernel, whose squared error is ‖K‖².
    limit = error + slack * torch.minimum(error, (squared - error).clamp_min(0.0))
    for _ in range(sweeps):
        for mode in range(3):
            others = [m for m in range(3) if m != mode]
            one, other = (found[m] for m in others)
            product = unfold(kernel, mode) @ _khatri_rao(one, other)
            scale = _weights(one, other).clamp_min(1e-300).rsqrt()
            scaled = scale[:, :, None] * _normal(one, other) * scale[:, None, :]
            values, vectors = torch.linalg.eigh(scaled)
            values = values.clamp_min(0.0)
            turned = (product * scale[:, None, :]) @ vectors
            strength = _strongest(values, turned.square().sum(-2), squared, limit)
            shrunk = turned / (values + strength[:, None])[:, None, :]
            found[mode] = shrunk @ vectors.mT * scale[:, None, :]
        found = balance_components(found)
    return found


def _strongest(values: Tensor, energies: Tensor, squared: Tensor, limit: Tensor) -> Tensor:
    """(groups,) the largest ridge μ with squared − Σ e(λ + 2μ)/(λ + μ)² ≤ limit."""
    top = values.amax(-1).clamp_min(1e-300)
    low, high = (top * 1e-14).log(), (top * 1e6).log()
    for _ in range(50):
        middle = (low + high) / 2
        ridge = middle.exp()[:, None]
        error = squared - (energies * (values + 2 * ridge) / (values + ridge).square()).sum(-1)
        low = torch.where(error <= limit, middle, low)
        high = torch.where(error <= limit, high, middle)
    return low.exp()


def rescaled(kernel: Tensor, factors: Sequence[Tensor]) -> list[Tensor]:
    """Factors of s·K̂ with the best s ≥ 0, after which the squared error is at most ‖K‖²."""
    approximation = reconstruct(factors)
    scale = (kernel * approximation).sum() / approximation.square().sum().clamp_min(1e-300)
    return [f * scale.clamp_min(0.0) ** (1 / 3) for f in factors]


def reconstruct(factors: Sequence[Tensor]) -> Tensor:
    """⟦A, B, C⟧ (groups, I₀, I₁, I₂); as tensorly.cp_to_tensor for one group."""
    first, second, third = factors
    flat = first @ _khatri_rao(second, third).mT
    return flat.reshape(*flat.shape[:2], second.shape[-2], third.shape[-2])


def component_energies(factors: Sequence[Tensor]) -> Tensor:
    """(groups, rank) squared norms of the rank-one components."""
    first, second, third = (f.square().sum(-2) for f in factors)
    return first * second * third


def sensitivity(factors: Sequence[Tensor]) -> float:
    """Expected squared change of the kernel per variance of independent noise on all factor
    entries: Σ over modes of Iₘ·Σ_r ∏_{n≠m}‖f⁽ⁿ⁾_r‖² (Phan et al. 2020), summed over groups."""
    first, second, third = (f.square().sum(-2) for f in factors)
    sizes = [f.shape[-2] for f in factors]
    one = sizes[0] * second * third + sizes[1] * first * third + sizes[2] * first * second
    return one.sum().item()


def _normal(one: Tensor, other: Tensor) -> Tensor:
    """(groups, rank, rank) matrix of the third factor's normal equations."""
    return (one.mT @ one) * (other.mT @ other)


def _weights(one: Tensor, other: Tensor) -> Tensor:
    """(groups, rank): the sensitivity is Σ_r weight_r·‖third_r‖² and terms without the third."""
    return one.shape[-2] * other.square().sum(-2) + other.shape[-2] * one.square().sum(-2)


def _khatri_rao(one: Tensor, other: Tensor) -> Tensor:
    """(groups, I·J, rank): the columns' Kronecker products, `other`'s index the faster."""
    return (one[:, :, None, :] * other[:, None, :, :]).flatten(1, 2)


def _solve(normal: Tensor, product: Tensor, ridge: Tensor) -> Tensor:
    """X with X·(normal + diag(ridge)) = product; normal is positive semidefinite."""
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    least = _RIDGE * diagonal.mean(-1, keepdim=True) + torch.finfo(normal.dtype).tiny
    root = torch.linalg.cholesky(normal + torch.diag_embed(ridge + least))
    return torch.cholesky_solve(product.mT, root).mT
