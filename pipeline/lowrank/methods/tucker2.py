"""Tucker-2 of a convolution kernel: 1×1 → core → 1×1 (Kim et al. 2016), spatial modes kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.linalg import balance_around, split_groups
from pipeline.lowrank.methods.base import (
    Certificate,
    Method,
    channels,
    check_rank,
    like,
    pointwise,
)
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid
from pipeline.lowrank.methods.hooi import hooi
from pipeline.lowrank.network.targets import Target


@dataclass(frozen=True)
class Tucker2(Method):
    """ranks = (out rank, in rank), of each group. HOSVD by Gram eigendecomposition, then HOOI
    sweeps until the error falls by less than `hooi_tolerance`·‖K‖² in a sweep, at most
    `hooi_iterations` of them; 0 leaves the HOSVD as it is."""

    hooi_iterations: int = 10
    hooi_tolerance: float = 1e-5

    name: ClassVar[str] = "tucker2"
    views: ClassVar[tuple[str, ...]] = ("mode0", "mode1")

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        return self.grid(target, spectra).worthwhile(target)

    def grid(self, target: Target, spectra: Spectra) -> CandidateGrid:
        """All ranks, worthwhile or not."""
        assert spectra.core_energy is not None
        # ‖K − K̂‖² = ‖K‖² − ‖core[:R₀, :R₁]‖², exact for the HOSVD of every rank pair at once.
        kept = spectra.core_energy.cumsum(0).cumsum(1)
        out_rank = torch.arange(1, kept.shape[0] + 1)[:, None]
        in_rank = torch.arange(1, kept.shape[1] + 1)[None, :]
        first = in_rank * target.groups * target.shape[1]
        core = target.groups * out_rank * in_rank * target.kernel_size
        last = out_rank * target.shape[0]
        macs = first * target.in_positions + (core + last) * target.out_positions
        return CandidateGrid(
            method=self.name,
            ranks=torch.cartesian_prod(out_rank.flatten(), in_rank.flatten()),
            params=(first + core + last + target.bias_params).flatten(),
            macs=macs.flatten(),
            squared_error=(spectra.squared_norm - kept).clamp_min(0.0).flatten(),
            error_kind="upper_bound" if self.hooi_iterations else "exact",
        )

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        return self.grid(target, spectra).find(ranks)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        out_rank, in_rank = ranks
        kernel = split_groups(weight.to(torch.float64), spectra.groups).flatten(3)
        core, (out_basis, in_basis) = hooi(
            kernel,
            [spectra.views[v].basis[..., :r] for v, r in zip(self.views, ranks, strict=True)],
            iterations=self.hooi_iterations,
            tolerance=self.hooi_tolerance,
        )
        ones = [1] * (weight.ndim - 2)
        return (
            in_basis.mT.reshape(-1, weight.shape[1], *ones),
            core.reshape(-1, in_rank, *weight.shape[2:]),
            out_basis.reshape(-1, out_rank, *ones),
        )

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """max tail ≤ error² ≤ sum of tails (MATH: Tucker); HOOI only lowers the error."""
        tails = [spectra.views[v].tails[r].item() for v, r in zip(self.views, ranks, strict=True)]
        return Certificate(max(tails), sum(tails), "HOSVD")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        out_rank, in_rank = ranks
        inputs, outputs, groups, bias = channels(module)
        return [
            pointwise(module, inputs, groups * in_rank, groups=groups),
            like(module, groups * in_rank, groups * out_rank, groups=groups),
            pointwise(module, groups * out_rank, outputs, groups=groups, bias=bias),
        ]

    @staticmethod
    def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        first, core, last = factors
        return balance_around(first, core, last, core.shape[0] // last.shape[1])

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        groups = factors[1].shape[0] // factors[2].shape[1]
        first, core, last = (split_groups(factor, groups) for factor in factors)
        bases = last.flatten(2), first.flatten(2)
        return torch.einsum("goa,gab...,gbi->goi...", bases[0], core, bases[1]).flatten(0, 1)

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 2:
            return f"tucker2 takes two ranks (out, in), not {len(ranks)}"
        outputs, inputs, taps = *shape[:2], math.prod(shape[2:])
        return check_rank("out rank", ranks[0], min(outputs, inputs * taps)) or check_rank(
            "in rank", ranks[1], min(inputs, outputs * taps)
        )
