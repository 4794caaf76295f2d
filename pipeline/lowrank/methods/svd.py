"""Truncated SVD of the matrix view: W ≈ left · right (Eckart–Young–Mirsky)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.candidate import Candidate, CandidateGrid
from pipeline.lowrank.methods.base import Certificate, Method, check_rank, like, linear, pointwise
from pipeline.lowrank.spectrum import Spectra
from pipeline.lowrank.target import Target


class SVD(Method):
    """ranks = (rank,). A Linear becomes two Linears; a kernel, seen as the matrix
    out × (in·taps), becomes a convolution onto `rank` channels and a 1×1 convolution."""

    name: ClassVar[str] = "svd"

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        view = spectra.views[_view(spectra)]
        rank = torch.arange(1, len(view.eigenvalues) + 1)
        outputs, inputs = target.shape[0], math.prod(target.shape[1:])
        # With one tap the first layer could run at input positions; it carries the stride, so
        # both layers run at output positions.
        return CandidateGrid(
            method=self.name,
            ranks=rank[:, None],
            params=rank * (outputs + inputs) + target.bias_params,
            macs=rank * (outputs + inputs) * target.out_positions,
            squared_error=view.tails[1:],
            error_kind="exact",
        ).worthwhile(target)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        name = _view(spectra)
        basis = spectra.views[name].basis[:, :rank]
        matrix = weight.to(torch.float64).flatten(1)
        if name == "mode0":
            left, right = basis, basis.T @ matrix
        else:
            left, right = matrix @ basis, basis.T
        # √σ on each side: equal norms round best in low precision and train best by SGD.
        scale = spectra.views[name].singular_values[:rank].sqrt()
        if name == "mode0":
            left, right = left * scale, right * _inverse(scale)[:, None]
        else:
            left, right = left * _inverse(scale), right * scale[:, None]
        first = right.reshape(rank, *weight.shape[1:])
        last = left.reshape(weight.shape[0], rank, *[1] * (weight.ndim - 2))
        return first, last

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        tail = spectra.views[_view(spectra)].tails[ranks[0]].item()
        return Certificate(tail, tail, "Eckart-Young")

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        bias = module.bias is not None
        if isinstance(module, nn.Linear):
            return [
                linear(module, module.in_features, rank, bias=False),
                linear(module, rank, module.out_features, bias=bias),
            ]
        inputs, outputs = int(module.in_channels), int(module.out_channels)  # type: ignore[arg-type]
        return [
            like(module, inputs, rank, groups=1, bias=False),
            pointwise(module, rank, outputs, bias=bias),
        ]

    @staticmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        return (last.flatten(1) @ first.flatten(1)).reshape(-1, *first.shape[1:])

    @staticmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"svd takes one rank, not {len(ranks)}"
        return check_rank("rank", ranks[0], min(shape[0], math.prod(shape[1:])))


def _view(spectra: Spectra) -> str:
    return "mode0" if "mode0" in spectra.views else "mode1"


def _inverse(scale: Tensor) -> Tensor:
    """1/scale, 0 where scale is 0: a direction without energy gets zero factors."""
    return torch.where(scale > 0, 1.0 / scale.clamp_min(1e-300), 0.0)
