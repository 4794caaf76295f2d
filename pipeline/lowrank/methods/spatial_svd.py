"""Spatial SVD: a convolution down the rows, then one along them (Jaderberg et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra, spatial_matrix
from pipeline.lowrank.linalg import balance, split_groups
from pipeline.lowrank.methods.base import Certificate, Method, along, channels, check_rank
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid
from pipeline.lowrank.network.targets import Target


class SpatialSVD(Method):
    """ranks = (rank,). A Conv2d becomes a height×1 convolution onto `rank` channels a group,
    with the vertical stride, padding and dilation, and a 1×width one with the horizontal ones:
    the truncated SVD of the matrix (in·height) × (out·width). Kernels of height or width 1 have
    no candidates: there it is `svd_in` or `svd`."""

    name: ClassVar[str] = "spatial_svd"
    views: ClassVar[tuple[str, ...]] = ("spatial",)

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        if "spatial" not in spectra.views:
            return []
        view = spectra.views["spatial"]
        outputs, inputs, height, width = target.shape
        rank = torch.arange(1, len(view.eigenvalues) + 1)
        first, last = target.groups * inputs * height, outputs * width
        (between,) = target.between_positions
        return CandidateGrid(
            method=self.name,
            ranks=rank[:, None],
            params=rank * (first + last) + target.bias_params,
            macs=rank * (first * between + last * target.out_positions),
            squared_error=view.tails[1:],
            error_kind="exact",
        ).worthwhile(target)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        outputs, inputs, height, width = weight.shape
        matrix = spatial_matrix(split_groups(weight.to(torch.float64), spectra.groups))
        basis = spectra.views["spatial"].basis[..., :rank]
        first = basis.mT.reshape(-1, inputs, height, 1)
        last = (basis.mT @ matrix).reshape(spectra.groups, rank, -1, width).transpose(1, 2)
        return first, last.reshape(outputs, rank, 1, width)

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        tail = spectra.views["spatial"].tails[ranks[0]].item()
        return Certificate(tail, tail, "Eckart-Young")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        return [
            along(module, 0, inputs, groups * rank, groups=groups),
            along(module, 1, groups * rank, outputs, groups=groups, bias=bias),
        ]

    @staticmethod
    def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return balance(*factors)

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        groups = first.shape[0] // last.shape[1]
        rows, columns = split_groups(first[..., 0], groups), split_groups(last[..., 0, :], groups)
        return torch.einsum("gorw,grih->goihw", columns, rows).flatten(0, 1)

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"spatial_svd takes one rank, not {len(ranks)}"
        if len(shape) != 4 or min(shape[2:]) == 1:
            return "spatial_svd needs a Conv2d whose kernel has height and width above 1"
        outputs, inputs, height, width = shape
        return check_rank("rank", ranks[0], min(inputs * height, outputs * width))
