"""Pivoted forms of the SVD and of Tucker-2: the same factors, the same errors, rank² numbers
less for each pivoted side (see `pipeline.lowrank.forms.pivots`). At full rank they cost what
the dense layer costs, so there is no break-even rank to stay below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.forms.pivots import PivotedInput, PivotedOutput, absorb_input, absorb_output
from pipeline.lowrank.linalg import split_groups
from pipeline.lowrank.methods.base import Method, channels, like, pointwise
from pipeline.lowrank.methods.candidate import CandidateGrid
from pipeline.lowrank.methods.svd import SVD
from pipeline.lowrank.methods.tucker2 import Tucker2
from pipeline.lowrank.network.targets import Target


class PivotedSVD(SVD):
    """ranks = (rank,). As `svd`, but `rank` of the output channels are the inner channels
    themselves: rank·(m + n − rank) numbers for an m×n matrix."""

    name: ClassVar[str] = "pivoted_svd"
    on_matrices: ClassVar[str] = "pivoted_svd"

    def grid(self, target: Target, spectra: Spectra) -> CandidateGrid:
        plain = super().grid(target, spectra)
        saved = target.groups * plain.ranks[:, 0].square()
        return plain.saving(saved, saved * target.out_positions)

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        first, last = SVD.layers(module, ranks)
        return [first, PivotedOutput.like(last)]

    balanced = staticmethod(Method.balanced)  # pivots are the same for all factors of a product

    @staticmethod
    def store(layers: Sequence[nn.Module], factors: Sequence[Tensor]) -> None:
        previous, last = factors
        SVD.store(layers[:1], [absorb_output(layers[1], previous, last)])

    @staticmethod
    def stored(layers: Sequence[nn.Module]) -> list[Tensor]:
        return [*SVD.stored(layers[:1]), layers[1].matrix().detach()]  # type: ignore[operator]


class PivotedTucker2(Tucker2):
    """ranks = (out rank, in rank), of each group. As `tucker2`, with pivots on both sides; a
    side of full rank needs no layer, so that the two matrix views of a kernel (`svd`, `svd_in`)
    are special cases."""

    name: ClassVar[str] = "pivoted_tucker2"
    on_matrices: ClassVar[str] = "pivoted_svd"

    def grid(self, target: Target, spectra: Spectra) -> CandidateGrid:
        plain = super().grid(target, spectra)
        out_saved, in_saved = (target.groups * plain.ranks.square()).unbind(1)
        return plain.saving(
            out_saved + in_saved,
            out_saved * target.out_positions + in_saved * target.in_positions,
        )

    @staticmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        inputs, outputs, groups, bias = channels(module)
        inner_out, inner_in = (groups * rank for rank in ranks)
        full = inner_out == outputs
        parts = [
            like(module, inner_in, inner_out, groups=groups, bias=bias and full),
        ]
        if inner_in < inputs:
            parts.insert(0, PivotedInput.like(pointwise(module, inputs, inner_in, groups=groups)))
        if not full:
            last = pointwise(module, inner_out, outputs, groups=groups, bias=bias)
            parts.append(PivotedOutput.like(last))
        return parts

    balanced = staticmethod(Method.balanced)  # pivots are the same for all factors of a product

    @staticmethod
    def store(layers: Sequence[nn.Module], factors: Sequence[Tensor]) -> None:
        first, core, last = factors
        groups = first.shape[0] // core.shape[1]
        core_layer = next(p for p in layers if not isinstance(p, PivotedInput | PivotedOutput))
        if isinstance(layers[0], PivotedInput):
            core = absorb_input(layers[0], first, core)
        else:
            core = _contract_inputs(core, first, groups)
        if isinstance(layers[-1], PivotedOutput):
            core = absorb_output(layers[-1], core, last)
        else:
            matrices = split_groups(last, groups).flatten(2) @ split_groups(core, groups).flatten(2)
            core = matrices.reshape(core.shape)
        Tucker2.store([core_layer], [core])

    @staticmethod
    def stored(layers: Sequence[nn.Module]) -> list[Tensor]:
        (core_layer,) = (p for p in layers if not isinstance(p, PivotedInput | PivotedOutput))
        (core,) = Tucker2.stored([core_layer])
        ones = [1] * (core.ndim - 2)
        groups = int(core_layer.groups)  # type: ignore[arg-type]
        first, last = (
            torch.eye(size, dtype=core.dtype, device=core.device).repeat(groups, 1)
            for size in (core.shape[1], core.shape[0] // groups)
        )
        ends = [m.reshape(*m.shape, *ones) for m in (first, last)]
        if isinstance(layers[0], PivotedInput):
            ends[0] = layers[0].matrix().detach()
        if isinstance(layers[-1], PivotedOutput):
            ends[1] = layers[-1].matrix().detach()
        return [ends[0], core, ends[1]]


def _contract_inputs(core: Tensor, first: Tensor, groups: int) -> Tensor:
    """core (out, rank, *taps) with the square first factor (rank, in) multiplied in."""
    return torch.einsum(
        "gor...,gri->goi...",
        split_groups(core, groups),
        split_groups(first, groups).flatten(2),
    ).reshape(core.shape[0], math.prod(first.shape[1:]), *core.shape[2:])
