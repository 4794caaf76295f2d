"""CP of a convolution kernel: 1×1 → depthwise → 1×1 (after Lebedev et al. 2015).

The kernel is the three-way tensor (out, in, taps): keeping the taps of a depthwise filter
together fits better at equal rank than one factor an axis, and costs one layer less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.linalg import split_groups
from pipeline.lowrank.methods import als
from pipeline.lowrank.methods.base import (
    Certificate,
    Method,
    channels,
    check_rank,
    like,
    pointwise,
)
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid
from pipeline.lowrank.methods.hooi import project
from pipeline.lowrank.methods.tucker2 import Tucker2
from pipeline.lowrank.methods.uniqueness import Uniqueness, cp_uniqueness, rank_upper_bound
from pipeline.lowrank.network.targets import Target

_CORRECTIONS = 10  # sweeps: on planted kernels they shrank diverging components 20 to 200 times
_ROOM = 1.5  # directions kept for each component while the fit runs on a small core


@dataclass(frozen=True)
class CP(Method):
    """ranks = (rank,), of each group. Alternating least squares from nested singular vectors,
    until a sweep lowers the squared error by less than `cp_tolerance`·‖K‖², at most
    `cp_iterations` sweeps. `cp_penalty` keeps the components from growing against each other
    (see `als.fit`); where they still exceed ten times the kernel, the error-preserving
    correction gives up at most the part `cp_slack` of the squared error to shrink them; a fit
    that then still exceeds a hundred times is started again from seeded noise `cp_restarts`
    times, and is given up for Tucker-2 if that does not help.

    No formula gives the error of a rank, so candidates are *fitted*, on a geometric grid of
    `cp_rank_grid` ranks up to break-even, each from the one before. `factorize` goes the same
    way, so that these errors are exact.
    """

    cp_iterations: int = 100
    cp_tolerance: float = 1e-6
    cp_penalty: float = 1e-3
    cp_slack: float = 0.02
    cp_restarts: int = 1
    cp_rank_grid: int = 8
    seed: int = 0

    name: ClassVar[str] = "cp"
    views: ClassVar[tuple[str, ...]] = ()

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        per_params, per_macs = als.component_costs(target)
        grid = self._grid((*target.group_shape[:2], target.kernel_size))
        fits = list(self._fits(weight, spectra, [r for r in grid if r * per_macs < target.macs]))
        good = [fit for fit in fits if not fit.diverged]
        ranks, errors = [fit.rank for fit in good], [fit.squared_error for fit in good]
        found = self._priced(target, ranks, errors).worthwhile(target)
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
        """Fitted here. Raises LowRankError where the fit diverges."""
        fitted = self.reconstruct(self.factorize(weight, spectra, ranks))
        error = float((weight.to(torch.float64) - fitted).square().sum())
        return self._priced(target, ranks, [error]).find(ranks)

    def _priced(self, target: Target, ranks: Sequence[int], errors: list[float]) -> CandidateGrid:
        rank = torch.tensor(ranks, dtype=torch.int64)
        params, macs = als.component_costs(target)
        return CandidateGrid(
            method=self.name,
            ranks=rank[:, None],
            params=rank * params + target.bias_params,
            macs=rank * macs,
            squared_error=torch.tensor(errors, dtype=torch.float64),
            error_kind="exact",
        )

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
        """A fit of each rank, ascending; each starts from the last that did not diverge."""
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
        """First on the Tucker core, where that is much smaller (Bro & Andersson 1998), then on
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
        """A rank-R CP has mode ranks ≤ R, so error² ≥ each mode's tail; the best scale was given
        to it, and the correction stops there, so error² ≤ ‖K‖²."""
        tails = [spectra.views[m].tails for m in ("mode0", "mode1")]
        lower = max(tail[min(ranks[0], len(tail) - 1)].item() for tail in tails)
        return Certificate(lower, spectra.squared_norm, "mode ranks")

    @staticmethod
    def uniqueness(shape: Sequence[int], ranks: Sequence[int]) -> Uniqueness | None:
        return cp_uniqueness([*shape[:2], math.prod(shape[2:])], ranks[0])

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        inner = groups * rank
        return [
            pointwise(module, inputs, inner, groups=groups),
            like(module, inner, inner, groups=inner),
            pointwise(module, inner, outputs, groups=groups, bias=bias),
        ]

    @staticmethod
    def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The norm of each component spread evenly: its factors have no other freedom."""
        groups = factors[0].shape[0] // factors[2].shape[1]
        first, taps, last = (split_groups(factor, groups).flatten(2) for factor in factors)
        even = als.balanced([first.mT, taps.mT, last])
        turned = (even[0].mT, even[1].mT, even[2])
        return tuple(e.reshape(f.shape) for e, f in zip(turned, factors, strict=True))

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, taps, last = factors
        groups = first.shape[0] // last.shape[1]
        right = first.flatten(1)[:, :, None] * taps.flatten(1)[:, None, :]  # rank, in, taps
        dense = split_groups(last.flatten(1), groups) @ split_groups(right.flatten(1), groups)
        return dense.reshape(last.shape[0], first.shape[1], *taps.shape[2:])

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"cp takes one rank, not {len(ranks)}"
        return check_rank("rank", ranks[0], rank_upper_bound([*shape[:2], math.prod(shape[2:])]))


def _diverged(fit: als.Fit) -> str:
    return (
        f"cp diverged at rank {fit.rank} (its components add up to {fit.components:.3g} times "
        "the kernel's squared norm)"
    )
