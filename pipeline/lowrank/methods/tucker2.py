"""Tucker-2 of a convolution kernel: 1×1 → core → 1×1 (Kim et al. 2016), spatial modes kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.candidate import Candidate, CandidateGrid
from pipeline.lowrank.linalg import left_eigenbasis
from pipeline.lowrank.methods.base import Certificate, Method, check_rank, like, pointwise
from pipeline.lowrank.spectrum import Spectra
from pipeline.lowrank.target import Target


@dataclass(frozen=True)
class Tucker2(Method):
    """ranks = (out rank, in rank). HOSVD by Gram eigendecomposition, then HOOI sweeps
    (De Lathauwer et al. 2000) until the error falls by less than `hooi_tolerance`·‖K‖² in a
    sweep, at most `hooi_iterations` of them; 0 leaves the HOSVD as it is."""

    hooi_iterations: int = 10
    hooi_tolerance: float = 1e-6

    name: ClassVar[str] = "tucker2"

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        assert spectra.core_energy is not None
        outputs, inputs = target.shape[:2]
        out_rank = torch.arange(1, outputs + 1)[:, None]
        in_rank = torch.arange(1, inputs + 1)[None, :]
        first, core, last = (
            in_rank * inputs,
            out_rank * in_rank * target.kernel_size,
            out_rank * outputs,
        )
        params = first + core + last + target.bias_params
        macs = first * target.in_positions + (core + last) * target.out_positions
        # ‖K − K̂‖² = ‖K‖² − ‖core[:R₀, :R₁]‖², exact for the HOSVD of every rank pair at once.
        kept = spectra.core_energy.cumsum(0).cumsum(1)
        return CandidateGrid(
            method=self.name,
            ranks=torch.cartesian_prod(out_rank.flatten(), in_rank.flatten()),
            params=params.flatten(),
            macs=macs.flatten(),
            squared_error=(spectra.squared_norm - kept).clamp_min(0.0).flatten(),
            error_kind="upper_bound" if self.hooi_iterations else "exact",
        ).worthwhile(target)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        out_rank, in_rank = ranks
        out_basis = spectra.views["mode0"].basis[:, :out_rank]
        in_basis = spectra.views["mode1"].basis[:, :in_rank]
        # Both orders lie contiguous, so that each half sweep is one matrix product.
        by_out = weight.to(torch.float64).flatten(2).transpose(1, 2).contiguous()  # out, taps, in
        by_in = by_out.permute(2, 1, 0).contiguous()  # in, taps, out
        kept = 0.0
        for _ in range(self.hooi_iterations):
            _, out_basis = _leading(by_out @ in_basis, out_rank)
            energy, in_basis = _leading(by_in @ out_basis, in_rank)
            before, kept = kept, energy
            if kept - before <= self.hooi_tolerance * spectra.squared_norm:
                break
        core = torch.einsum("iko,ir->rko", by_in @ out_basis, in_basis)  # in rank, taps, out rank
        ones = [1] * (weight.ndim - 2)
        return (
            in_basis.T.reshape(in_rank, -1, *ones),
            core.permute(2, 0, 1).reshape(out_rank, in_rank, *weight.shape[2:]),
            out_basis.reshape(-1, out_rank, *ones),
        )

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """max tail ≤ error² ≤ sum of tails (MATH: Tucker); HOOI only lowers the error."""
        tails = [spectra.views[f"mode{m}"].tails[r].item() for m, r in enumerate(ranks)]
        return Certificate(max(tails), sum(tails), "HOSVD")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        out_rank, in_rank = ranks
        inputs, outputs = int(module.in_channels), int(module.out_channels)  # type: ignore[arg-type]
        return [
            pointwise(module, inputs, in_rank, bias=False),
            like(module, in_rank, out_rank, groups=1, bias=False),
            pointwise(module, out_rank, outputs, bias=module.bias is not None),
        ]

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, core, last = factors
        dense = torch.einsum("or,rsk,si->oik", last.flatten(1), core.flatten(2), first.flatten(1))
        return dense.reshape(last.shape[0], first.shape[1], *core.shape[2:])

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 2:
            return f"tucker2 takes two ranks (out, in), not {len(ranks)}"
        return check_rank("out rank", ranks[0], shape[0]) or check_rank(
            "in rank", ranks[1], shape[1]
        )


def _leading(narrowed: Tensor, rank: int) -> tuple[float, Tensor]:
    """(Σ of the leading eigenvalues = ‖core‖², leading left basis) of the mode-0 unfolding."""
    eigenvalues, basis = left_eigenbasis(narrowed.flatten(1))
    return eigenvalues[:rank].sum().item(), basis[:, :rank]
