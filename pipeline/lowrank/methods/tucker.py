"""Tucker of all modes of a kernel, with standard layers and the textbook's parameter count.

One factor serves all channels along each axis of the kernel. So the channels become one more
axis of positions there: a convolution from 1 channel to the axis' rank has exactly size × rank
weights. Both axes come before the core: it holds nearly all multiplications, and so runs at the
output's positions, the fewest if the layer has a stride (with none, one axis after the core
would save a few percent at best).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.linalg import balance_around, split_groups
from pipeline.lowrank.methods.base import (
    Certificate,
    Method,
    along,
    channels,
    check_rank,
    pointwise,
)
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid, merge
from pipeline.lowrank.methods.hooi import hooi
from pipeline.lowrank.network.targets import Target


@dataclass(frozen=True)
class Tucker(Method):
    """ranks = (out rank, in rank, a rank for each axis of the kernel); ∏R + ΣI·R parameters.
    HOSVD and HOOI as in `tucker2`. For Conv1d and Conv2d without groups: the shared factors of
    a Conv3d would need a convolution over four axes, those of groups one layer a group."""

    hooi_iterations: int = 10
    hooi_tolerance: float = 1e-5

    name: ClassVar[str] = "tucker"
    views: ClassVar[tuple[str, ...]] = ("mode0", "mode1", "mode2", "mode3")

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        if target.kind not in ("conv1d", "conv2d") or target.groups > 1:
            return []
        error = self._errors(weight, spectra)
        every = product(*(range(1, size + 1) for size in error.shape[2:]))
        grids = [self._grid(target, error, axis_ranks).pruned(target) for axis_ranks in every]
        return merge(grids).worthwhile(target)

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        return self._grid(target, self._errors(weight, spectra), ranks[2:]).find(ranks)

    def _errors(self, weight: Tensor, spectra: Spectra) -> Tensor:
        """Squared HOSVD errors of all rank tuples, one axis a mode: as in tucker2, from sums of
        squares of the core."""
        bases = [spectra.views[view].basis for view in self.views[: weight.ndim]]
        kernel = split_groups(weight.to(torch.float64), 1)
        core, _ = hooi(kernel, bases, iterations=0, tolerance=0.0)
        kept = core[0].square()
        for mode in range(kept.ndim):
            kept = kept.cumsum(mode)
        return (spectra.squared_norm - kept).clamp_min(0.0)

    def _grid(self, target: Target, error: Tensor, axis_ranks: Sequence[int]) -> CandidateGrid:
        """All channel ranks at these axis ranks: a slice, so that memory stays small."""
        out_rank = torch.arange(1, error.shape[0] + 1)[:, None]
        in_rank = torch.arange(1, error.shape[1] + 1)[None, :]
        core = out_rank * in_rank * math.prod(axis_ranks)
        first, last = in_rank * target.shape[1], out_rank * target.shape[0]
        params = first + core + last + target.bias_params
        macs = first * target.in_positions + (core + last) * target.out_positions
        after, copies = [*target.between_positions, target.out_positions], in_rank
        for size, rank, positions in zip(target.shape[2:], axis_ranks, after, strict=True):
            params = params + size * rank
            macs = macs + copies * (size * rank * positions)
            copies = copies * rank
        chosen = error
        for rank in reversed(axis_ranks):
            chosen = chosen[..., rank - 1]
        channel_ranks = torch.cartesian_prod(out_rank.flatten(), in_rank.flatten())
        return CandidateGrid(
            method=self.name,
            ranks=torch.cat(
                [channel_ranks, torch.tensor([axis_ranks]).expand(chosen.numel(), -1)], 1
            ),
            params=params.flatten(),
            macs=macs.flatten(),
            squared_error=chosen.flatten(),
            error_kind="upper_bound" if self.hooi_iterations else "exact",
        )

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        core, (out_basis, in_basis, *axis_bases) = hooi(
            split_groups(weight.to(torch.float64), 1),
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
        """max tail ≤ error² ≤ sum of tails (MATH: Tucker); HOOI only lowers the error."""
        tails = [spectra.views[v].tails[r].item() for v, r in zip(self.views, ranks, strict=False)]
        return Certificate(max(tails), sum(tails), "HOSVD")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        inputs, outputs, groups, bias = channels(module)
        if groups > 1:
            raise LowRankError(f"tucker has no form for groups={groups}; plan tucker2 there")
        out_rank, copies, *axis_ranks = ranks
        # Counted from the end, the axes are the same with and without a batch dimension.
        channel = -len(axis_ranks) - 1
        layers = [pointwise(module, inputs, copies)]
        for axis, rank in enumerate(axis_ranks):
            layers += [
                nn.Unflatten(channel, (1, copies)),
                along(module, axis, 1, rank, depth=1),
                nn.Flatten(channel - 1, channel),
            ]
            copies *= rank
        return [
            *layers,
            pointwise(module, copies, out_rank),
            pointwise(module, out_rank, outputs, bias=bias),
        ]

    @staticmethod
    def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The channel factors and the core; the axis factors, orthonormal, stay as they are."""
        first, *taps, mixed, last = factors
        core = mixed.reshape(len(mixed), -1, len(first)).mT  # the in rank varies fastest
        first, core, last = balance_around(first, core, last, 1)
        return (first, *taps, core.mT.reshape(mixed.shape), last)

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, *taps, core, last = factors
        sizes = [len(tap) for tap in reversed(taps)]
        dense = core.reshape(core.shape[0], *sizes, -1) @ first.flatten(1)
        for axis, tap in enumerate(taps):  # the axis' rank stands just before the inputs
            dense = torch.tensordot(dense, tap.flatten(1), dims=([len(taps) - axis], [0]))
        kernel: Tensor = torch.tensordot(last.flatten(1), dense, dims=1)
        return kernel

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(shape) not in (3, 4):
            return "tucker needs a Conv1d or Conv2d"
        if len(ranks) != len(shape):
            return f"tucker takes {len(shape)} ranks (out, in, one an axis), not {len(ranks)}"
        total = math.prod(shape)
        labels = ["out rank", "in rank", "first axis rank", "second axis rank"]
        problems = (
            check_rank(label, rank, min(size, total // size))
            for label, rank, size in zip(labels, ranks, shape, strict=False)
        )
        return next(filter(None, problems), None)
