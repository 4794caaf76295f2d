"""CP of a convolution kernel: 1×1 → depthwise → 1×1 (after Lebedev et al. 2015).

The kernel is the three-way tensor (out, in, taps): keeping the taps of a depthwise filter
together fits better at equal rank than one factor an axis, and costs one layer less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensorly.tenalg import khatri_rao
from torch import Tensor, nn

from pipeline.lowrank.candidate import Candidate, CandidateGrid
from pipeline.lowrank.linalg import unfold
from pipeline.lowrank.methods.base import Certificate, Method, check_rank, like, pointwise
from pipeline.lowrank.spectrum import Spectra
from pipeline.lowrank.target import Target

_RIDGE = 1e-10  # relative to the mean diagonal; keeps degenerate components bounded


@dataclass(frozen=True)
class CP(Method):
    """ranks = (rank,). Alternating least squares from the HOSVD bases, filled up with seeded
    noise, until a sweep lowers the squared error by less than `cp_tolerance`·‖K‖², at most
    `cp_iterations` sweeps. No formula gives the error of a rank, so candidates are *fitted*
    on a geometric grid of `cp_rank_grid` ranks up to break-even, with the very code that
    builds the layer: their errors are exact."""

    cp_iterations: int = 200
    cp_tolerance: float = 1e-8
    cp_rank_grid: int = 8
    seed: int = 0

    name: ClassVar[str] = "cp"

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        outputs, inputs, taps = *target.shape[:2], target.kernel_size
        per_params = outputs + inputs + taps
        per_macs = inputs * target.in_positions + (taps + outputs) * target.out_positions
        limit = min(
            (target.params - target.bias_params - 1) // per_params, (target.macs - 1) // per_macs
        )
        if limit < 1:
            return []
        grid = torch.logspace(0, math.log10(limit), self.cp_rank_grid, dtype=torch.float64)
        ranks = torch.unique(grid.round().to(torch.int64).clamp(1, limit))
        kernel = weight.to(torch.float64)
        errors = [
            (kernel - self.reconstruct(self.factorize(weight, spectra, [r]))).square().sum()
            for r in ranks.tolist()
        ]
        return CandidateGrid(
            method=self.name,
            ranks=ranks[:, None],
            params=ranks * per_params + target.bias_params,
            macs=ranks * per_macs,
            squared_error=torch.stack(errors),
            error_kind="exact",
        ).worthwhile(target)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        kernel = weight.to(torch.float64).flatten(2)
        bases = [spectra.views["mode0"].basis, spectra.views["mode1"].basis, kernel.new_empty(0, 0)]
        generator = torch.Generator().manual_seed(self.seed)
        factors = [
            _start(size, rank, basis, generator)
            for size, basis in zip(kernel.shape, bases, strict=True)
        ]
        factors = self._alternate(kernel, factors, spectra.squared_norm)
        outputs, inputs, taps = factors
        ones = [1] * (weight.ndim - 2)
        return (
            inputs.T.reshape(rank, -1, *ones),
            taps.T.reshape(rank, 1, *weight.shape[2:]),
            outputs.reshape(-1, rank, *ones),
        )

    def _alternate(self, kernel: Tensor, factors: list[Tensor], squared: float) -> list[Tensor]:
        unfoldings = [unfold(kernel, mode) for mode in range(3)]
        error = squared
        for _ in range(self.cp_iterations):
            for mode in range(3):
                others = [factors[m] for m in range(3) if m != mode]
                gram = (others[0].T @ others[0]) * (others[1].T @ others[1])
                ridge = _RIDGE * gram.diagonal().mean() + torch.finfo(torch.float64).tiny
                gram_ridge = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
                product = unfoldings[mode] @ khatri_rao(others)
                factors[mode] = torch.linalg.solve(gram_ridge, product.T).T
            before = error
            overlap = (product * factors[2]).sum()
            error = float(squared - 2 * overlap + (gram * (factors[2].T @ factors[2])).sum())
            factors = _balance(factors)
            if before - error <= self.cp_tolerance * squared:
                break
        return factors

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """A rank-R CP has mode ranks ≤ R, so error² ≥ each mode's tail; least squares is never
        worse than the zero kernel, so error² ≤ ‖K‖²."""
        tails = [spectra.views[m].tails for m in ("mode0", "mode1")]
        lower = max(tail[min(ranks[0], len(tail) - 1)].item() for tail in tails)
        return Certificate(lower, spectra.squared_norm, "mode ranks")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs = int(module.in_channels), int(module.out_channels)  # type: ignore[arg-type]
        return [
            pointwise(module, inputs, rank, bias=False),
            like(module, rank, rank, groups=rank, bias=False),
            pointwise(module, rank, outputs, bias=module.bias is not None),
        ]

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, taps, last = factors
        dense = torch.einsum("or,ri,rk->oik", last.flatten(1), first.flatten(1), taps.flatten(1))
        return dense.reshape(last.shape[0], first.shape[1], *taps.shape[2:])

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"cp takes one rank, not {len(ranks)}"
        sizes = [shape[0], shape[1], math.prod(shape[2:])]
        return check_rank("rank", ranks[0], math.prod(sizes) // max(sizes))


def _start(size: int, rank: int, basis: Tensor, generator: torch.Generator) -> Tensor:
    """(size, rank): leading singular vectors, then seeded Gaussian columns of norm about 1."""
    known = basis[:, :rank] if basis.numel() else basis.new_empty(size, 0)
    noise = torch.randn(size, rank - known.shape[1], generator=generator, dtype=torch.float64)
    return torch.cat([known, noise / math.sqrt(size)], dim=1)


def _balance(factors: list[Tensor]) -> list[Tensor]:
    """Spreads each component's norm evenly over its factors."""
    norms = torch.stack([torch.linalg.vector_norm(f, dim=0) for f in factors])
    target = norms.prod(0) ** (1 / len(factors))
    scales = torch.where(norms > 0, target / norms.clamp_min(1e-300), 0.0)
    return [f * s for f, s in zip(factors, scales, strict=True)]
