"""Tucker-2 of a convolution kernel: bases of its channel modes, spatial modes kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.methods.base import MULTIPLE_OF, Certificate, Method, hosvd, priced
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid, ErrorKind
from pipeline.lowrank.methods.hooi import SWEEPS, TOLERANCE, hooi
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import options


@options
class Tucker2(Method):
    """Tucker of the channel modes of a kernel (Kim et al. 2016); ranks = (out rank, in rank), of
    each group. HOSVD by Gram eigendecomposition, then HOOI sweeps, which minimise ‖K − K̂‖², until
    the error falls by less than `hooi_tolerance`·‖K‖² in a sweep, at most `hooi_iterations` of them
    (0 keeps the HOSVD). As tensorly.decomposition.partial_tucker with modes [0, 1]."""

    hooi_iterations: int = SWEEPS
    hooi_tolerance: float = TOLERANCE
    rank_multiple_of: int = MULTIPLE_OF

    name: ClassVar[str] = "tucker2"
    reads_weight: ClassVar[bool] = False
    form: ClassVar[Form] = FORMS["tucker2"]
    views: ClassVar[tuple[str, ...]] = ("mode0", "mode1")

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        return self._grid(target, spectra).worthwhile(target, self.rank_multiple_of)

    def _grid(self, target: Target, spectra: Spectra) -> CandidateGrid:
        """Candidates at all rank pairs, worthwhile or not."""
        assert spectra.core_energy is not None
        # ‖K − K̂‖² = ‖K‖² − ‖core[:R₀, :R₁]‖², exact for the HOSVD of every rank pair at once.
        kept = spectra.core_energy.cumsum(0).cumsum(1)
        ranks = torch.cartesian_prod(*(torch.arange(1, size + 1) for size in kept.shape))
        error = (spectra.squared_norm - kept).clamp_min(0.0).flatten()
        kind: ErrorKind = "upper_bound" if self.hooi_iterations else "exact"
        return priced(self, target, ranks, error, kind)

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        return self._grid(target, spectra).find(ranks)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        out_rank, in_rank = ranks
        kernel = split_groups(weight.double(), spectra.groups).flatten(3)
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
        return hosvd(self, spectra, ranks)
