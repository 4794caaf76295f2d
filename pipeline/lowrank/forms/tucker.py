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

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.base import Form, check_rank
from pipeline.lowrank.forms.parts import along, channels, pointwise
from pipeline.lowrank.network.linalg import balance_around
from pipeline.lowrank.network.targets import Target


class TuckerForm(Form):
    """ranks = (out rank, in rank, a rank for each axis of the kernel); ∏R + ΣI·R parameters. For
    Conv1d and Conv2d without groups: the shared factors of a Conv3d would need a convolution over
    four axes, those of groups one layer a group."""

    name = "tucker"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        out_rank, in_rank, *axis_ranks = ranks.unbind(1)
        core = out_rank * in_rank * ranks[:, 2:].prod(1)
        first, last = in_rank * target.shape[1], out_rank * target.shape[0]
        params = first + core + last + target.bias_params
        macs = first * target.in_positions + (core + last) * target.out_positions
        copies = in_rank
        for size, rank, positions in zip(
            target.shape[2:], axis_ranks, target.axis_positions, strict=True
        ):
            params = params + size * rank
            macs = macs + copies * (size * rank * positions)
            copies = copies * rank
        return params, macs

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
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

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
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

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The channel factors and the core; the axis factors, orthonormal, stay as they are."""
        first, *taps, mixed, last = factors
        core = mixed.reshape(len(mixed), -1, len(first)).mT  # the in rank varies fastest
        first, core, last = balance_around(first, core, last, 1)
        return (first, *taps, core.mT.reshape(mixed.shape), last)

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        first, *taps, core, last = factors
        sizes = [len(tap) for tap in reversed(taps)]
        dense = core.reshape(core.shape[0], *sizes, -1) @ first.flatten(1)
        for axis, tap in enumerate(taps):  # the axis' rank stands just before the inputs
            dense = torch.tensordot(dense, tap.flatten(1), dims=([len(taps) - axis], [0]))
        kernel: Tensor = torch.tensordot(last.flatten(1), dense, dims=1)
        return kernel
