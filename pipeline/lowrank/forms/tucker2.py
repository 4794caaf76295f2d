"""1×1 → core → 1×1: Tucker-2 of a kernel, spatial modes kept (Kim et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.lowrank.forms.base import Form, check_rank
from pipeline.lowrank.forms.parts import channels, like, pointwise
from pipeline.lowrank.network.linalg import balance_around, split_groups
from pipeline.lowrank.network.targets import Target


class Tucker2Form(Form):
    """ranks = (out rank, in rank), of each group."""

    name = "tucker2"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        out_rank, in_rank = ranks.unbind(1)
        first = in_rank * target.groups * target.shape[1]
        core = target.groups * out_rank * in_rank * target.kernel_size
        last = out_rank * target.shape[0]
        macs = first * target.in_positions + core * target.kernel_positions
        macs = macs + last * target.out_positions
        return first + core + last + target.bias_params, macs

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 2:
            return f"tucker2 takes two ranks (out, in), not {len(ranks)}"
        outputs, inputs, taps = *shape[:2], math.prod(shape[2:])
        return check_rank("out rank", ranks[0], min(outputs, inputs * taps)) or check_rank(
            "in rank", ranks[1], min(inputs, outputs * taps)
        )

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        out_rank, in_rank = ranks
        inputs, outputs, groups, bias = channels(module)
        return [
            pointwise(module, inputs, groups * in_rank, groups=groups),
            like(module, groups * in_rank, groups * out_rank, groups=groups),
            pointwise(module, groups * out_rank, outputs, groups=groups, bias=bias),
        ]

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        first, core, last = factors
        return balance_around(first, core, last, core.shape[0] // last.shape[1])

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        groups = factors[1].shape[0] // factors[2].shape[1]
        first, core, last = (split_groups(factor, groups) for factor in factors)
        bases = last.flatten(2), first.flatten(2)
        return torch.einsum("goa,gab...,gbi->goi...", bases[0], core, bases[1]).flatten(0, 1)
