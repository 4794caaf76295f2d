"""Truncated SVD of the matrix view: W ≈ left · right (Eckart–Young–Mirsky)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.linalg import balance, split_groups
from pipeline.lowrank.methods.base import (
    Certificate,
    Method,
    channels,
    check_rank,
    embedding,
    like,
    linear,
    pointwise,
)
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid
from pipeline.lowrank.network.targets import Target

if TYPE_CHECKING:  # networks are loaded without their analysis
    from pipeline.lowrank.analysis.metrics import Metric


class SVD(Method):
    """ranks = (rank,). A matrix becomes two Linears (an Embedding: a smaller table and a
    Linear); a kernel, seen as the matrix out × (in·taps), becomes a convolution onto `rank`
    channels a group and a 1×1 convolution."""

    name: ClassVar[str] = "svd"
    views: ClassVar[tuple[str, ...]] = ("mode0",)

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        return self.grid(target, spectra).worthwhile(target)

    def grid(self, target: Target, spectra: Spectra) -> CandidateGrid:
        """All ranks, worthwhile or not."""
        view = spectra.views["mode0"]
        rank = torch.arange(1, len(view.eigenvalues) + 1)
        outputs, inputs = target.shape[0], target.groups * math.prod(target.shape[1:])
        # With one tap the first layer could run at input positions; it carries the stride, so
        # both layers run at output positions. An Embedding's first layer is a lookup.
        multiplied = outputs if target.kind == "embedding" else outputs + inputs
        return CandidateGrid(
            method=self.name,
            ranks=rank[:, None],
            params=rank * (outputs + inputs) + target.bias_params,
            macs=rank * multiplied * target.out_positions,
            squared_error=view.tails[1:],
            error_kind="exact",
        )

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        basis = spectra.views["mode0"].basis[..., : ranks[0]]
        return _project(weight, basis.mT), _last(basis, weight.ndim)

    def factorize_in(
        self, metric: Metric, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """As the contract says, for a third of the products: Uᵀ·(left·W·right)·right⁻¹ is
        (Uᵀ·left)·W."""
        basis = spectra.views["mode0"].basis[..., : ranks[0]]
        turned = basis.mT if metric.left is None else basis.mT @ metric.left
        return _project(weight, turned), metric.unwhiten_outputs(_last(basis, weight.ndim))

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        tail = spectra.views["mode0"].tails[ranks[0]].item()
        return Certificate(tail, tail, "Eckart-Young")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        if isinstance(module, nn.Embedding):
            return [embedding(module, rank), linear(module, rank, outputs)]
        if not isinstance(module, nn.modules.conv._ConvNd):
            return [linear(module, inputs, rank), linear(module, rank, outputs, bias=bias)]
        return [
            like(module, inputs, groups * rank, groups=groups),
            pointwise(module, groups * rank, outputs, groups=groups, bias=bias),
        ]

    @staticmethod
    def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return balance(*factors)

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        groups = first.shape[0] // last.shape[1]
        left, right = split_groups(last, groups), split_groups(first, groups)
        return (left.flatten(2) @ right.flatten(2)).reshape(-1, *first.shape[1:])

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"svd takes one rank, not {len(ranks)}"
        return check_rank("rank", ranks[0], min(shape[0], math.prod(shape[1:])))


def _project(weight: Tensor, rows: Tensor) -> Tensor:
    """rows (groups, rank, out/groups) · weight, in the shape of a first factor, float64."""
    matrix = split_groups(weight.to(torch.float64), len(rows)).flatten(2)
    return (rows @ matrix).reshape(-1, *weight.shape[1:])


def _last(basis: Tensor, dimensions: int) -> Tensor:
    """basis (groups, out/groups, rank) in the shape of a last factor."""
    return basis.reshape(-1, basis.shape[-1], *[1] * (dimensions - 2))
