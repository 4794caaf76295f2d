"""Tucker of all modes of a kernel: bases of its channels and of each axis of its taps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.methods.base import MULTIPLE_OF, Certificate, Method, hosvd, priced
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid, ErrorKind, merge
from pipeline.lowrank.methods.hooi import SWEEPS, TOLERANCE, hooi
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import options


@options
class Tucker(Method):
    """Tucker of all modes of a kernel; ranks = (out rank, in rank, a rank for each axis of the
    kernel). HOSVD and HOOI as in `Tucker2`; as tensorly.decomposition.tucker. For Conv1d and Conv2d
    without groups."""

    hooi_iterations: int = SWEEPS
    hooi_tolerance: float = TOLERANCE

    rank_multiple_of: int = MULTIPLE_OF

    name: ClassVar[str] = "tucker"
    form: ClassVar[Form] = FORMS["tucker"]
    views: ClassVar[tuple[str, ...]] = ("mode0", "mode1", "mode2", "mode3")

    def obstacle(self, target: Target) -> str | None:
        fits = len(target.shape) in (3, 4) and target.groups == 1
        return None if fits else "tucker needs a Conv1d or Conv2d without groups"

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        if self.obstacle(target):
            return []
        error = self._errors(weight, spectra)
        every = product(*(range(1, size + 1) for size in error.shape[2:]))
        of = self.rank_multiple_of
        grids = [self._grid(target, error, r).multiples(of).pruned(target) for r in every]
        return merge(grids).worthwhile(target)

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        if self.obstacle(target):
            return None
        return self._grid(target, self._errors(weight, spectra), ranks[2:]).find(ranks)

    def _errors(self, weight: Tensor, spectra: Spectra) -> Tensor:
        """Squared HOSVD errors of all rank tuples, one dimension a mode: as in `Tucker2`, from sums
        of squares of the core."""
        bases = [spectra.views[view].basis for view in self.views[: weight.ndim]]
        kernel = split_groups(weight.double(), 1)
        core, _ = hooi(kernel, bases, iterations=0, tolerance=0.0)
        kept = core[0].square().cpu()
        for mode in range(kept.ndim):
            kept = kept.cumsum(mode)
        return (spectra.squared_norm - kept).clamp_min(0.0)

    def _grid(self, target: Target, error: Tensor, axis_ranks: Sequence[int]) -> CandidateGrid:
        """All channel ranks at these axis ranks: a slice, so that memory stays small."""
        chosen = error
        for rank in reversed(axis_ranks):
            chosen = chosen[..., rank - 1]
        channels = torch.cartesian_prod(*(torch.arange(1, size + 1) for size in chosen.shape))
        ranks = torch.cat([channels, torch.tensor([axis_ranks]).expand(len(channels), -1)], 1)
        kind: ErrorKind = "upper_bound" if self.hooi_iterations else "exact"
        return priced(self, target, ranks, chosen.flatten(), kind)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        core, (out_basis, in_basis, *axis_bases) = hooi(
            split_groups(weight.double(), 1),
            [spectra.views[v].basis[..., :r] for v, r in zip(self.views, ranks, strict=False)],
            iterations=self.hooi_iterations,
            tolerance=self.hooi_tolerance,
        )
        axes = len(axis_bases)
        taps = []
        for axis, basis in enumerate(axis_bases):
            size, rank = basis.shape[1:]
            taps.append(basis[0].T.reshape(rank, 1, 1, *[1] * axis, size, *[1] * (axes - axis - 1)))
        # The channels that reach the core: the last axis' rank varies slowest, the in rank fastest.
        mixed = core[0].permute(0, *reversed(range(1, axes + 2)))
        ones = [1] * axes
        return (
            in_basis[0].T.reshape(ranks[1], -1, *ones),
            *taps,
            mixed.reshape(ranks[0], -1, *ones),
            out_basis[0].reshape(-1, ranks[0], *ones),
        )

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        return hosvd(self, spectra, ranks)
