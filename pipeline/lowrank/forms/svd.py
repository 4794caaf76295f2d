"""Two layers for a matrix, or for a kernel seen as the matrix out × (in·taps)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.lowrank.forms.base import Form, check_rank
from pipeline.lowrank.forms.parts import channels, embedding, like, linear, pointwise
from pipeline.lowrank.network.linalg import balance, split_groups
from pipeline.lowrank.network.stacks import Stack, empty_stack
from pipeline.lowrank.network.targets import Target


class SVDForm(Form):
    """ranks = (rank,). A matrix becomes two Linears (an Embedding: a smaller table and a Linear; a
    stack: two stacks); a kernel becomes a convolution onto `rank` channels a group and a 1×1
    convolution."""

    name = "svd"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        rank = ranks[:, 0]
        outputs, inputs = target.shape[0], target.groups * math.prod(target.shape[1:])
        # The first layer carries the stride, also with one tap. An Embedding's is a lookup.
        first = 0 if target.is_lookup else inputs * target.kernel_positions
        params = rank * (outputs + inputs) + target.bias_params
        macs = rank * (first + outputs * target.out_positions)
        return params, macs // target.groups_in_turn

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"svd takes one rank, not {len(ranks)}"
        return check_rank("rank", ranks[0], min(shape[0], math.prod(shape[1:])))

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        if isinstance(module, Stack):
            inner = groups * rank
            return [empty_stack(module, inputs, inner), empty_stack(module, inner, outputs)]
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return [embedding(module, rank), linear(module, rank, outputs)]
        if not isinstance(module, nn.modules.conv._ConvNd):
            return [linear(module, inputs, rank), linear(module, rank, outputs, bias=bias)]
        return [
            like(module, inputs, groups * rank, groups=groups),
            pointwise(module, groups * rank, outputs, groups=groups, bias=bias),
        ]

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return balance(*factors)

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        groups = first.shape[0] // last.shape[1]
        left, right = split_groups(last, groups), split_groups(first, groups)
        return (left.flatten(2) @ right.flatten(2)).reshape(-1, *first.shape[1:])
