"""1×1 → depthwise → 1×1: the CP of a kernel (after Lebedev et al. 2015).

The kernel is the three-way tensor (out, in, taps): keeping the taps of a depthwise filter
together fits better at equal rank than one factor an axis, and costs one layer less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.lowrank.forms.base import Form, check_rank
from pipeline.lowrank.forms.parts import channels, like, pointwise
from pipeline.lowrank.network.linalg import balance_components, split_groups
from pipeline.lowrank.network.targets import Target


class CPForm(Form):
    """A 1×1 convolution onto `rank` components, a depthwise convolution, and a 1×1 convolution;
    ranks = (rank,), of each group."""

    name = "cp"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        rank = ranks[:, 0]
        params, macs = component_costs(target)
        return rank * params + target.bias_params, rank * macs

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"cp takes one rank, not {len(ranks)}"
        return check_rank("rank", ranks[0], rank_upper_bound([*shape[:2], math.prod(shape[2:])]))

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        inner = groups * rank
        return [
            pointwise(module, inputs, inner, groups=groups),
            like(module, inner, inner, groups=inner),
            pointwise(module, inner, outputs, groups=groups, bias=bias),
        ]

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The norm of each component is spread evenly: the factors of a CP have no other
        freedom."""
        groups = factors[0].shape[0] // factors[2].shape[1]
        first, taps, last = (split_groups(factor, groups).flatten(2) for factor in factors)
        even = balance_components([first.mT, taps.mT, last])
        turned = (even[0].mT, even[1].mT, even[2])
        return tuple(e.reshape(f.shape) for e, f in zip(turned, factors, strict=True))

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        first, taps, last = factors
        groups = first.shape[0] // last.shape[1]
        right = first.flatten(1)[:, :, None] * taps.flatten(1)[:, None, :]  # rank, in, taps
        dense = split_groups(last.flatten(1), groups) @ split_groups(right.flatten(1), groups)
        return dense.reshape(last.shape[0], first.shape[1], *taps.shape[2:])


def component_costs(target: Target) -> tuple[int, int]:
    """Parameters and MACs of one component of a kernel, in all groups together."""
    outputs, inputs, taps = (*target.group_shape[:2], target.kernel_size)
    macs = inputs * target.in_positions + taps * target.kernel_positions
    macs += outputs * target.out_positions
    return target.groups * (outputs + inputs + taps), target.groups * macs


def rank_upper_bound(sizes: Sequence[int]) -> int:
    """∏I / max I, the product of all sizes but the largest: no tensor of these sizes has a higher
    rank.

    The course module that this project started from (docs/theorems.md) prints R ≤ ∏I / max I as its
    condition of *uniqueness*. It is none: every tensor satisfies it, and the generic 2×2×2 tensor
    of rank 3 has infinitely many decompositions.
    """
    return math.prod(sizes) // max(sizes)
