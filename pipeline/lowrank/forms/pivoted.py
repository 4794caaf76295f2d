"""Pivots put on another form: the same factors, with rank² numbers less for each pivoted side.

At full rank such a form costs what the dense layer costs, so there is no break-even rank to stay
below (see `pivots`; PIFA: Zhao et al. 2025, arXiv 2501.19090; interpolative decomposition: Cheng et
al. 2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.lowrank.forms.base import Form
from pipeline.lowrank.forms.pivots import PivotedInput, PivotedOutput, absorb_input, absorb_output
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import Target, dense_weight, groups_of

Side = Literal["out", "in"]


class Pivoted(Form):
    """`form` with pivots on some sides; ranks are the form's own.

    form: the form whose factors are stored.
    sides: the sides with pivots, in the order of the ranks that belong to them: "out", where the
        last factor passes channels on instead of computing them, and "in", where the first factor
        does. A side of full rank needs no layer: its factor, square, is multiplied into the next
        one.
    """

    def __init__(self, form: Form, sides: Sequence[Side]) -> None:
        self.form, self.sides = form, tuple(sides)
        self.name = f"pivoted_{form.name}"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        params, macs = self.form.costs(target, ranks)
        positions = {"out": target.out_positions, "in": target.in_positions}
        for side, rank in zip(self.sides, ranks.unbind(1), strict=True):
            saved = target.groups * rank.square()
            params, macs = params - saved, macs - saved * positions[side] // target.groups_in_turn
        return params, macs

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        return self.form.check_ranks(shape, ranks)

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        first, *between, last = self.form.layers(module, ranks)
        layers = [first, *between]
        outputs, rank, *_ = dense_weight(last).shape
        if groups_of(last) * rank < outputs:
            layers.append(PivotedOutput.like(last))
        else:
            _give_bias(layers[-1], last)
        if "in" in self.sides:
            rank, inputs, *_ = dense_weight(first).shape
            if rank < groups_of(first) * inputs:
                layers[0] = PivotedInput.like(first)
            else:
                layers.pop(0)
        return layers

    def store(self, layers: Sequence[nn.Module], factors: Sequence[Tensor]) -> None:
        inner = list(factors)
        if "in" in self.sides:
            first, following, *rest = inner
            if isinstance(layers[0], PivotedInput):
                inner = [absorb_input(layers[0], first, following), *rest]
            else:
                inner = [_contract_inputs(following, first), *rest]
        *before, previous, last = inner
        if isinstance(layers[-1], PivotedOutput):
            inner = [*before, absorb_output(layers[-1], previous, last)]
        else:
            inner = [*before, _contract_outputs(previous, last)]
        self.form.store(_plain(layers), inner)

    def stored(self, layers: Sequence[nn.Module]) -> list[Tensor]:
        """The factors of the form without pivots; the identity for a side without a layer."""
        plain = _plain(layers)
        factors = self.form.stored(plain)
        if isinstance(layers[-1], PivotedOutput):
            last = layers[-1].matrix()
        else:
            last = _identity(factors[-1], len(factors[-1]) // groups_of(plain[-1]), plain[-1])
        if "in" not in self.sides:
            return [*factors, last]
        if isinstance(layers[0], PivotedInput):
            first = layers[0].matrix()
        else:
            first = _identity(factors[0], factors[0].shape[1], plain[0])
        return [first, *factors, last]

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        return self.form.reconstruct(factors)


def _plain(layers: Sequence[nn.Module]) -> list[nn.Module]:
    return [layer for layer in layers if not isinstance(layer, PivotedInput | PivotedOutput)]


def _give_bias(layer: nn.Module, last: nn.Module) -> None:
    """Gives the bias of the last layer, which is left out, to the layer before it."""
    bias = getattr(last, "bias", None)
    if bias is not None:
        layer.bias = nn.Parameter(torch.empty_like(bias))


def _identity(factor: Tensor, size: int, layer: nn.Module) -> Tensor:
    """(groups · size, size, 1…): the identity, which is the factor of a side without a layer."""
    eye = torch.eye(size, dtype=factor.dtype, device=factor.device).repeat(groups_of(layer), 1)
    return eye.reshape(*eye.shape, *[1] * (factor.ndim - 2))


def _contract_inputs(following: Tensor, first: Tensor) -> Tensor:
    """following (out, rank, *taps) with the square first factor (rank, in) multiplied in."""
    groups = first.shape[0] // following.shape[1]
    return torch.einsum(
        "gor...,gri->goi...",
        split_groups(following, groups),
        split_groups(first, groups).flatten(2),
    ).reshape(following.shape[0], math.prod(first.shape[1:]), *following.shape[2:])


def _contract_outputs(previous: Tensor, last: Tensor) -> Tensor:
    """previous (rank, in, *taps) with the square last factor (out, rank) multiplied on."""
    groups = previous.shape[0] // last.shape[1]
    matrices = split_groups(last, groups).flatten(2) @ split_groups(previous, groups).flatten(2)
    return matrices.reshape(previous.shape)
