"""CP of a convolution kernel, fitted by alternating least squares (after Lebedev et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.forms.cp import component_costs
from pipeline.lowrank.methods import als
from pipeline.lowrank.methods.base import MULTIPLE_OF, Certificate, Method, priced
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid
from pipeline.lowrank.methods.hooi import project
from pipeline.lowrank.methods.tucker2 import Tucker2
from pipeline.lowrank.methods.uniqueness import Uniqueness, cp_uniqueness
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import knob, options

_CORRECTIONS = 10  # sweeps: on planted kernels they shrank diverging components 20 to 200 times
_ROOM = 1.5  # directions kept for each component while the fit runs on a small core


@options
class CP(Method):
    """CP: a sum of rank-one components; ranks = (rank,), of each group. Fitted by alternating least
    squares from nested singular vectors (see `als.fit`), which minimises ‖K − K̂‖² plus a penalty.

    Where components still exceed ten times the kernel, the error-preserving correction gives up a
    part of the squared error to shrink them. A fit that then exceeds a hundred times the kernel is
    started again from seeded noise, and is given up for Tucker-2 if that does not help. No formula
    gives the error of a rank, so candidates are *fitted*, on a geometric grid of ranks up to
    break-even, each from the one before. `factorize` goes the same way, so that these errors are
    exact.
    """

    cp_iterations: int = knob(default=100, ge=1, help="cp: sweeps of alternating least squares")
    cp_tolerance: float = knob(
        default=1e-6,
        ge=0,
        help="cp: stop when a sweep lowers the squared error by less, relative to ‖K‖²",
    )
    cp_penalty: float = knob(
        default=1e-3,
        ge=0,
        help="cp: weight of the sensitivity, relative to ‖K‖²; 0 lets components diverge",
    )
    cp_slack: float = knob(
        default=0.02,
        ge=0,
        help="cp: part of the squared error that the correction of large components may add",
    )
    cp_restarts: int = knob(default=1, ge=0, help="cp: seeded fresh starts of a fit that diverged")
    cp_rank_grid: int = knob(
        default=8, ge=1, help="cp: number of ranks that are fitted as candidates"
    )
    seed: int = knob(
        default=0, ge=0, help="cp: seed of the noise from which a diverged fit starts again"
    )
    rank_multiple_of: int = MULTIPLE_OF

    name: ClassVar[str] = "cp"
    form: ClassVar[Form] = FORMS["cp"]
    views: ClassVar[tuple[str, ...]] = ()

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        per_params, per_macs = component_costs(target)
        grid = self._grid((*target.group_shape[:2], target.kernel_size))
        fits = list(self._fits(weight, spectra, [r for r in grid if r * per_macs < target.macs]))
        good = [fit for fit in fits if not fit.diverged]
        ranks, errors = [fit.rank for fit in good], [fit.squared_error for fit in good]
        found = self._priced(target, ranks, errors).worthwhile(target, self.rank_multiple_of)
        notes = {fit.rank: f"cp sensitivity {als.sensitivity(fit.factors):.3g}" for fit in good}
        found = [replace(candidate, note=notes[candidate.ranks[0]]) for candidate in found]
        if len(good) < len(fits):
            instead = Tucker2().candidates(target, weight, spectra)
            for fit in fits:
                limit = fit.rank * per_params + target.bias_params
                cheaper = [c for c in instead if c.params <= limit]
                if fit.diverged and cheaper:
                    best = min(cheaper, key=lambda c: (c.squared_error, c.params))
                    found.append(replace(best, note=_diverged(fit)))
        return found

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        """The candidate of a fit that is made for this call. Raises LowRankError where the fit
        diverges."""
        fitted = self.form.reconstruct(self.factorize(weight, spectra, ranks))
        error = float((weight.to(torch.float64) - fitted).square().sum())
        return self._priced(target, ranks, [error]).find(ranks)

    def _priced(self, target: Target, ranks: Sequence[int], errors: list[float]) -> CandidateGrid:
        rank = torch.tensor(ranks, dtype=torch.int64)[:, None]
        return priced(self, target, rank, torch.tensor(errors, dtype=torch.float64))

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        kernel = split_groups(weight, spectra.groups).flatten(3)
        before = [r for r in self._grid(kernel.shape[1:]) if r < rank]
        *_, fit = self._fits(weight, spectra, [*before, rank])
        if fit.diverged:
            raise LowRankError(f"{_diverged(fit)}; plan tucker2 there, or raise cp_penalty")
        outputs, inputs, taps = fit.factors
        ones = [1] * (weight.ndim - 2)
        return (
            inputs.mT.reshape(-1, weight.shape[1], *ones),
            taps.mT.reshape(-1, 1, *weight.shape[2:]),
            outputs.reshape(-1, rank, *ones),
        )

    def _grid(self, sizes: Sequence[int]) -> list[int]:
        """Geometric ranks, up to the last with fewer parameters than the kernel."""
        limit = (math.prod(sizes) - 1) // sum(sizes)
        if limit < 1:
            return []
        last = max(1, self.cp_rank_grid - 1)
        return sorted({round(limit ** (index / last)) for index in range(self.cp_rank_grid)})

    def _fits(self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]) -> Iterator[als.Fit]:
        """A fit of each rank, ascending; each starts from the last fit that did not diverge."""
        kernel = split_groups(weight.to(torch.float64), spectra.groups).flatten(3)
        order = sorted(range(3), key=lambda mode: -kernel.shape[mode + 1])
        bases = [spectra.views[f"mode{m}"].basis if m < 2 else None for m in order]
        ordered = kernel.permute(0, *(mode + 1 for mode in order)).contiguous()
        start = [kernel.new_zeros(len(kernel), size, 0) for size in ordered.shape[1:]]
        for rank in ranks:
            found = self._fit(ordered, bases, start, rank)
            start = start if found.diverged else found.factors
            factors = [found.factors[order.index(mode)] for mode in range(3)]
            yield replace(found, factors=factors)

    def _fit(
        self, kernel: Tensor, bases: Sequence[Tensor | None], start: list[Tensor], rank: int
    ) -> als.Fit:
        fit = self._corrected(kernel, self._alternate(kernel, bases, start, rank))
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.cp_restarts):
            if not fit.diverged:
                break
            noise = [
                torch.randn(len(kernel), size, rank, generator=generator, dtype=torch.float64)
                for size in kernel.shape[1:]
            ]
            scale = torch.linalg.vector_norm(kernel) / torch.linalg.vector_norm(
                als.reconstruct(noise)
            )
            again = [(scale ** (1 / 3) * factor).to(kernel.device) for factor in noise]
            fit = self._corrected(kernel, self._alternate(kernel, bases, again, rank))
        return fit

    def _alternate(
        self, kernel: Tensor, bases: Sequence[Tensor | None], start: list[Tensor], rank: int
    ) -> list[Tensor]:
        """Fits on the Tucker core first, where that is much smaller (Bro & Andersson 1998), then on
        the kernel itself."""
        factors, missing = start, rank - start[0].shape[-1]
        room = math.ceil(_ROOM * rank)
        small = [None if b is None or b.shape[-1] <= room else b[..., :room] for b in bases]
        if any(basis is not None for basis in small):
            core = kernel
            for mode, basis in enumerate(small):
                if basis is not None:
                    core = project(core, basis, mode)
            pairs = list(zip(factors, small, strict=True))
            inside = [f if b is None else b.mT @ f for f, b in pairs]
            inside = self._als(core.contiguous(), als.extend(core, inside, missing))
            pairs = list(zip(inside, small, strict=True))
            factors, missing = [f if b is None else b @ f for f, b in pairs], 0
        return self._als(kernel, als.extend(kernel, factors, missing) if missing else factors)

    def _als(self, kernel: Tensor, factors: list[Tensor]) -> list[Tensor]:
        return als.fit(
            kernel,
            factors,
            iterations=self.cp_iterations,
            tolerance=self.cp_tolerance,
            penalty=self.cp_penalty,
        )

    def _corrected(self, kernel: Tensor, factors: list[Tensor]) -> als.Fit:
        squared = kernel.square().sum().item()
        factors = als.rescaled(kernel, factors)

        def components() -> float:
            energies = als.component_energies(factors).sum().item()
            return energies / squared if squared > 0 else 0.0

        if components() > als.CALM:
            factors = als.correct(kernel, factors, sweeps=_CORRECTIONS, slack=self.cp_slack)
        error = (kernel - als.reconstruct(factors)).square().sum().item()
        return als.Fit(factors[0].shape[-1], factors, error, components())

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """A rank-R CP has mode ranks ≤ R, so error² ≥ each mode's tail. The fit has the best scale,
        and the correction never raises the error above the zero kernel's, so error² ≤ ‖K‖²."""
        tails = [spectra.views[m].tails for m in ("mode0", "mode1")]
        lower = max(tail[min(ranks[0], len(tail) - 1)].item() for tail in tails)
        return Certificate(lower, spectra.squared_norm, "mode ranks")

    def uniqueness(self, shape: Sequence[int], ranks: Sequence[int]) -> Uniqueness | None:
        return cp_uniqueness([*shape[:2], math.prod(shape[2:])], ranks[0])


def _diverged(fit: als.Fit) -> str:
    return (
        f"cp diverged at rank {fit.rank} (its components add up to {fit.components:.3g} times "
        "the kernel's squared norm)"
    )
