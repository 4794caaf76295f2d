"""Truncated SVD of the other matrix view of a kernel: (in) × (out·taps)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.linalg import balance, split_groups, unfold
from pipeline.lowrank.methods.base import (
    Certificate,
    Method,
    channels,
    check_rank,
    like,
    pointwise,
)
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid
from pipeline.lowrank.network.targets import Target


class SVDIn(Method):
    """ranks = (rank,). A 1×1 convolution onto `rank` channels a group, then a convolution with
    the kernel's taps: cheaper than `svd` where a layer has more inputs than outputs, or where
    its inputs are the more correlated."""

    name: ClassVar[str] = "svd_in"
    views: ClassVar[tuple[str, ...]] = ("mode1",)

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        view = spectra.views["mode1"]
        rank = torch.arange(1, len(view.eigenvalues) + 1)
        inputs, outputs = target.groups * target.shape[1], target.shape[0] * target.kernel_size
        return CandidateGrid(
            method=self.name,
            ranks=rank[:, None],
            params=rank * (inputs + outputs) + target.bias_params,
            macs=rank * (inputs * target.in_positions + outputs * target.out_positions),
            squared_error=view.tails[1:],
            error_kind="exact",
        ).worthwhile(target)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        kernel = split_groups(weight.to(torch.float64), spectra.groups)
        basis = spectra.views["mode1"].basis[..., :rank]
        last = (basis.mT @ unfold(kernel, 1)).reshape(len(kernel), rank, -1, *weight.shape[2:])
        first = basis.mT.reshape(-1, weight.shape[1], *[1] * (weight.ndim - 2))
        return first, last.movedim(1, 2).flatten(0, 1)

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        tail = spectra.views["mode1"].tails[ranks[0]].item()
        return Certificate(tail, tail, "Eckart-Young")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        return [
            pointwise(module, inputs, groups * rank, groups=groups),
            like(module, groups * rank, outputs, groups=groups, bias=bias),
        ]

    @staticmethod
    def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return balance(*factors)

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        groups = first.shape[0] // last.shape[1]
        basis, rest = split_groups(first, groups).flatten(2), split_groups(last, groups)
        return torch.einsum("gor...,gri->goi...", rest, basis).flatten(0, 1)

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"svd_in takes one rank, not {len(ranks)}"
        if math.prod(shape[2:]) == 1:
            return "svd_in needs a kernel with taps; on a matrix it is the svd"
        return check_rank("rank", ranks[0], min(shape[1], shape[0] * math.prod(shape[2:])))
