"""Weights in 8 bits, chosen by what the layers compute instead of one by one.

Rounding a column of a weight makes an error that the columns after it can make up for, as far as
their inputs tell it apart from them: columns are rounded one after the other, in the norm of the
inputs (Frantar et al. 2022, "GPTQ", arXiv 2210.17323, after Hassibi & Stork's optimal brain
surgeon). Of pivoted factors the pivots are rounded first; the coefficients of the other channels
are then solved for against the rounded pivots, and rounded last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.moments import gram
from pipeline.lowrank.exports.calls import Call
from pipeline.lowrank.forms.pivots import PivotedOutput
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.calling import layer_input

_TOP = 127  # the largest number of 8 bits, of either sign
_DAMPING = 0.01  # of the mean square of an input, on all of them: GPTQ's own
_UNCERTAIN = 1e-6  # of the trace: more than float32 rounds in sums of squares
_BLOCK = 128  # columns whose errors reach the later ones in one product
_ROWS = 8192  # positions that the moments of inputs are taken of


@dataclass(frozen=True)
class Rounded:
    """A matrix in 8 bits: whole numbers (out, in) int8, and the step of each row (out, 1), which
    are numbers of float32 in float64."""

    numbers: Tensor
    steps: Tensor

    def matrix(self) -> Tensor:
        """(out, in) float64: what the numbers stand for."""
        return self.numbers.double() * self.steps


def rounded_weights(model: nn.Module, calls: Sequence[Call]) -> dict[str, Rounded]:
    """{name: weight in 8 bits} of the Linears of a network.

    calls: examples by whose activations the errors are weighed; none: all inputs count alike, and
        only the coefficients of pivoted factors make up for the errors of others.
    """
    moments = _input_moments(model, calls)
    found: dict[str, Rounded] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, Factorized):
            found |= _pivoted(f"{name}." if name else "", layer, moments)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name not in found:
            weight = layer.weight.detach().double()
            found[name] = rounded(weight, moments.get(name))
    return found


def _pivoted(
    prefix: str, layer: nn.Module, moments: Mapping[str, Tensor]
) -> Iterator[tuple[str, Rounded]]:
    """The Linear before each pivoted one, and the Linear inside of that."""
    for (one, first), (other, last) in pairwise(layer.named_children()):
        if not isinstance(last, PivotedOutput) or not isinstance(first, nn.Linear):
            continue
        if isinstance(last.rest, nn.Linear):
            whole, coefficients = (part.weight.detach().double() for part in (first, last.rest))
            name = f"{prefix}{one}"
            pivots, rest = rounded_pivots(whole, coefficients, moments.get(name))
            yield name, pivots
            yield f"{prefix}{other}.rest", rest


def rounded(weight: Tensor, moments: Tensor | None) -> Rounded:
    """A matrix (out, in) in 8 bits, by rows, with little error in the norm of its inputs.

    weight: float64. moments: (in, in) float64, the sum of x·xᵀ over inputs; None: nearest numbers.
    """
    steps = weight.abs().amax(1, keepdim=True) / _TOP
    steps = steps.clamp_min(torch.finfo(torch.float32).tiny).float().double()
    if moments is None:
        return Rounded(_nearest(weight, steps), steps)
    return Rounded(_by_feedback(weight, steps, _damped(moments)), steps)


def rounded_pivots(pivots: Tensor, rest: Tensor, moments: Tensor | None) -> tuple[Rounded, Rounded]:
    """Two matrices in 8 bits whose channels, `pivots` and rest·pivots, have little error.

    pivots: (rank, in); rest: (others, rank), float64. moments: of the inputs, as in `rounded`.
    """
    known = rounded(pivots, moments)
    matrix = known.matrix()
    weighed = matrix if moments is None else matrix @ _damped(moments)
    seen = weighed @ matrix.mT  # what `rest` reads then
    missing = weighed @ (rest @ (pivots - matrix)).mT
    change = torch.cholesky_solve(missing, torch.linalg.cholesky(_damped(seen)))
    return known, rounded(rest + change.mT, seen)


def _nearest(weight: Tensor, steps: Tensor) -> Tensor:
    return (weight / steps).round().clamp(-_TOP, _TOP).to(torch.int8)


def _damped(moments: Tensor) -> Tensor:
    """With a share of the mean square on the diagonal; the identity, of nothing but zeros."""
    whole = moments.diagonal().sum()
    even = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    share = max(_DAMPING / len(moments), _UNCERTAIN)
    return (moments + moments.mT) / 2 + even * (share * whole if whole > 0 else 1)


def _by_feedback(weight: Tensor, steps: Tensor, moments: Tensor) -> Tensor:
    """The numbers, column by column: the later columns move by what is least in the norm."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    shares = torch.linalg.cholesky(inverse, upper=True)
    left, numbers = weight.clone(), torch.empty_like(weight, dtype=torch.int8)
    for start in range(0, weight.shape[1], _BLOCK):
        end = min(start + _BLOCK, weight.shape[1])
        errors = torch.empty_like(left[:, start:end])
        for column in range(start, end):
            numbers[:, column] = _nearest(left[:, column, None], steps)[:, 0]
            error = left[:, column] - numbers[:, column] * steps[:, 0]
            errors[:, column - start] = error / shares[column, column]
            left[:, column:end] -= errors[:, column - start, None] * shares[column, column:end]
        left[:, end:] -= errors @ shares[start:end, end:]
    return numbers


def _input_moments(model: nn.Module, calls: Sequence[Call]) -> dict[str, Tensor]:
    """{name of a Linear: the sum of x·xᵀ (in, in) float64} over what it reads in the calls, of
    which there are enough after some thousand positions; padding counts for nothing."""
    sums: dict[str, Tensor] = {}
    rows = 0
    for call in calls:
        for one in call.examples():  # a language model's answers to many would be gigabytes
            if rows >= _ROWS:
                return sums
            mask = one.named.get("attention_mask")
            with _watched(model, sums, mask):
                one.of(model)
            rows += next(iter(one.tensors.values())).numel() if mask is None else int(mask.sum())
    return sums


@contextmanager
def _watched(model: nn.Module, sums: dict[str, Tensor], mask: Tensor | None) -> Iterator[None]:
    def hook(name: str) -> Any:
        def add(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            value = layer_input(given, named).detach()
            if mask is not None and value.shape[:-1] == mask.shape:
                value = value[mask.bool()]
            found = gram(value.reshape(1, -1, value.shape[-1]))[0]
            sums[name] = sums[name] + found if name in sums else found

        return add

    handles = [
        module.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
