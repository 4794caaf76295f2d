"""A convolution down the rows, then one along them (Jaderberg et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.lowrank.forms.base import Form, check_rank
from pipeline.lowrank.forms.parts import along, channels
from pipeline.lowrank.network.linalg import balance, split_groups
from pipeline.lowrank.network.targets import Target


class SpatialSVDForm(Form):
    """ranks = (rank,). A Conv2d becomes a height×1 convolution onto `rank` channels a group,
    with the vertical stride, padding and dilation, and a 1×width one with the horizontal ones."""

    name = "spatial_svd"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        rank = ranks[:, 0]
        outputs, inputs, height, width = target.shape
        first, last = target.groups * inputs * height, outputs * width
        rows, columns = target.axis_positions
        macs = rank * (first * rows + last * columns)
        return rank * (first + last) + target.bias_params, macs

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"spatial_svd takes one rank, not {len(ranks)}"
        if len(shape) != 4 or min(shape[2:]) == 1:
            return "spatial_svd needs a Conv2d whose kernel has height and width above 1"
        outputs, inputs, height, width = shape
        return check_rank("rank", ranks[0], min(inputs * height, outputs * width))

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        return [
            along(module, 0, inputs, groups * rank, groups=groups),
            along(module, 1, groups * rank, outputs, groups=groups, bias=bias),
        ]

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return balance(*factors)

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        groups = first.shape[0] // last.shape[1]
        rows, columns = split_groups(first[..., 0], groups), split_groups(last[..., 0, :], groups)
        return torch.einsum("gorw,grih->goihw", columns, rows).flatten(0, 1)
