"""Two layers for a kernel seen as the matrix (in) × (out·taps): 1×1, then the taps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.lowrank.forms.base import Form, check_rank
from pipeline.lowrank.forms.parts import channels, like, pointwise
from pipeline.lowrank.network.linalg import balance, split_groups
from pipeline.lowrank.network.targets import Target


class SVDInForm(Form):
    """ranks = (rank,). A 1×1 convolution onto `rank` channels a group, then a convolution with
    the kernel's taps."""

    name = "svd_in"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        rank = ranks[:, 0]
        inputs, outputs = target.groups * target.shape[1], target.shape[0] * target.kernel_size
        macs = rank * (inputs * target.in_positions + outputs * target.kernel_positions)
        return rank * (inputs + outputs) + target.bias_params, macs

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"svd_in takes one rank, not {len(ranks)}"
        if math.prod(shape[2:]) == 1:
            return "svd_in needs a kernel with taps; on a matrix it is the svd"
        return check_rank("rank", ranks[0], min(shape[1], shape[0] * math.prod(shape[2:])))

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        return [
            pointwise(module, inputs, groups * rank, groups=groups),
            like(module, groups * rank, outputs, groups=groups, bias=bias),
        ]

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return balance(*factors)

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        groups = first.shape[0] // last.shape[1]
        basis, rest = split_groups(first, groups).flatten(2), split_groups(last, groups)
        return torch.einsum("gor...,gri->goi...", rest, basis).flatten(0, 1)
