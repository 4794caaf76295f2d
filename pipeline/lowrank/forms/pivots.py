"""Pivoted factors: a matrix of rank r has r(m + n) − r² degrees of freedom, so r² numbers of two
factors of r(m + n) are redundant. Fixing that freedom makes r rows of one factor the identity:
these channels are passed on instead of being computed, and full rank costs what dense costs.

The network is the same function; only its form is smaller (interpolative decomposition: Cheng et
al. 2005; as a form of low-rank layers: Zhao et al. 2025, "PIFA", arXiv 2501.19090).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pipeline.lowrank.forms.constructors import constructor_of
from pipeline.lowrank.forms.interpolative import pivot_rows
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.stacks import Stack, empty_stack
from pipeline.lowrank.network.targets import dense_weight, groups_of, weight_of, write_weight_


class PivotedOutput(nn.Module):
    """Makes `outputs` channels of fewer: some are the input channels themselves (the pivots),
    `rest` computes the others from them, and the bias is added to all. `dim` is the dimension of
    the channels, counted from the end (so that there may be a batch or none).

    In training the whole factor is multiplied out: moving channels, forth and back, takes a CPU 2
    to 4 times as long as the products that it saves.
    """

    order: Tensor

    def __init__(self, rest: nn.Module, outputs: int, dim: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.rest, self.dim = rest, dim
        self.bias = bias
        # order[i]: the place of output channel i among (input channels, computed channels).
        index = torch.arange(outputs, device=dense_weight(rest).device)
        self.register_buffer("order", index)

    @classmethod
    def like(cls, last: nn.Module) -> PivotedOutput:
        """A layer to take the place of `last`, a Linear or a 1×1 convolution with more outputs than
        inputs; its weights and order are still to be filled in."""
        weight, groups = dense_weight(last), groups_of(last)
        outputs, inner = weight.shape[0], groups * weight.shape[1]
        rest = pointwise_as(last, inner, outputs - inner)
        bias = getattr(last, "bias", None)
        assert bias is None or isinstance(bias, nn.Parameter)
        return cls(rest, outputs, 1 - weight.ndim if weight.ndim > 2 else -1, bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = _plain_weight(self.rest) if self.training else None
        if weight is not None:
            whole = _whole_output(weight, groups_of(self.rest), self.order)
            return _apply(self.rest, x, whole, self.bias)
        y = _take(torch.cat([x, self.rest(x)], self.dim), self.dim, self.order)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * (-1 - self.dim))

    def constructor(self) -> dict[str, Any]:
        """See `constructors.constructor_of`."""
        sizes = {"outputs": len(self.order), "dim": self.dim, "bias": self.bias is not None}
        return {"kind": "PivotedOutput", "rest": constructor_of(self.rest), **sizes}

    def matrix(self) -> Tensor:
        """The whole factor (outputs, rank, 1…) that this layer stands for."""
        return _whole_output(weight_of(self.rest), groups_of(self.rest), self.order)


class PivotedInput(nn.Module):
    """Makes fewer channels of many: some input channels (the pivots), plus what `rest` computes
    from the others; multiplied out in training, as `PivotedOutput`."""

    pivots: Tensor
    others: Tensor

    def __init__(self, rest: nn.Module, rank: int, inputs: int, dim: int) -> None:
        super().__init__()
        self.rest, self.dim = rest, dim
        index = torch.arange(inputs, device=dense_weight(rest).device)
        self.register_buffer("pivots", index[:rank].clone())
        self.register_buffer("others", index[rank:].clone())

    @classmethod
    def like(cls, first: nn.Module) -> PivotedInput:
        """A layer to take the place of `first`, a Linear or a 1×1 convolution without bias and with
        fewer outputs than inputs; its weights and indices are still to be filled in."""
        weight, groups = dense_weight(first), groups_of(first)
        rank, inputs = weight.shape[0], groups * weight.shape[1]
        rest = pointwise_as(first, inputs - rank, rank)
        return cls(rest, rank, inputs, 1 - weight.ndim if weight.ndim > 2 else -1)

    def forward(self, x: Tensor) -> Tensor:
        weight = _plain_weight(self.rest) if self.training else None
        if weight is not None:
            whole = _whole_input(weight, groups_of(self.rest), self.pivots, self.others)
            return _apply(self.rest, x, whole, None)
        others: Tensor = self.rest(_take(x, self.dim, self.others))
        return _take(x, self.dim, self.pivots) + others

    def constructor(self) -> dict[str, Any]:
        """See `constructors.constructor_of`."""
        pivots, rest = len(self.pivots), len(self.others)
        sizes = {"pivots": pivots, "inputs": pivots + rest, "dim": self.dim}
        return {"kind": "PivotedInput", "rest": constructor_of(self.rest), **sizes}

    def matrix(self) -> Tensor:
        """The whole factor (rank, inputs of a group, 1…) that this layer stands for."""
        groups = groups_of(self.rest)
        return _whole_input(weight_of(self.rest), groups, self.pivots, self.others)


def _whole_output(weight: Tensor, groups: int, order: Tensor) -> Tensor:
    rank = weight.shape[1]
    identity = torch.eye(rank, dtype=weight.dtype, device=weight.device).repeat(groups, 1)
    stacked = torch.cat([identity, weight.flatten(1)])[order]
    return stacked.reshape(len(order), rank, *weight.shape[2:])


def _whole_input(weight: Tensor, groups: int, pivots: Tensor, others: Tensor) -> Tensor:
    rank, rest = weight.shape[0] // groups, weight.shape[1]
    whole = weight.new_zeros(groups, rank, rank + rest)
    columns = torch.arange(groups, device=weight.device)[:, None] * (rank + rest)
    known = (pivots.view(groups, rank) - columns)[:, None, :].expand(-1, rank, -1)
    places = (others.view(groups, rest) - columns)[:, None, :].expand(-1, rank, -1)
    identity = torch.eye(rank, dtype=weight.dtype, device=weight.device)
    whole.scatter_(2, known, identity.expand_as(whole[..., :rank]))
    whole.scatter_(2, places, weight.reshape(groups, rank, rest))
    return whole.reshape(groups * rank, rank + rest, *weight.shape[2:])


@fx.wrap  # torch.fx cannot trace its condition: there it is one call of the graph
def _take(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The channels `index` of x, laid out as x. Tokens are taken as rows of one matrix: torch's CPU
    kernel for the last of two dimensions is twelve times as fast as that for the last of three. So
    are the pixels of an image in channels last, which the layers that follow would lose else."""
    if dim == -1 and x.dim() > 2:
        rows = x.flatten(0, -2).index_select(-1, index)
        return rows.view(*x.shape[:-1], len(index))
    if dim == -3 and x.dim() == 4 and _is_channels_last(x):
        return _take(x.permute(0, 2, 3, 1), -1, index).permute(0, 3, 1, 2)
    return x.index_select(dim, index)


def _is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def absorb_output(layer: nn.Module, previous: Tensor, last: Tensor) -> Tensor:
    """Fills a PivotedOutput with the last factor (out, rank, 1…) of each group; returns the factor
    before it (groups · rank, …) with the pivot rows of `last` multiplied in, float64."""
    assert isinstance(layer, PivotedOutput)
    rank = last.shape[1]
    groups = previous.shape[0] // rank
    size = last.shape[0] // groups
    order = torch.empty(groups * size, dtype=torch.int64)
    turned, coefficients = [], []
    for group, (before, matrix) in enumerate(
        zip(_split(previous, groups), _split(last, groups), strict=True)
    ):
        pivots, coefficient, basis = pivot_rows(matrix)
        others = _others(pivots, size)
        start = group * size
        order[start + pivots] = group * rank + torch.arange(rank)
        order[start + others] = groups * rank + group * (size - rank) + torch.arange(size - rank)
        turned.append(basis @ before)
        coefficients.append(coefficient)
    layer.order.copy_(order)
    _fill(layer.rest, torch.cat(coefficients))
    return torch.cat(turned).reshape(previous.shape)


def absorb_input(layer: nn.Module, first: Tensor, following: Tensor) -> Tensor:
    """Fills a PivotedInput with the first factor (groups · rank, in, 1…); returns the factor after
    it (out, rank, …) with the pivot columns of `first` multiplied in, float64."""
    assert isinstance(layer, PivotedInput)
    rank, size = following.shape[1], first.shape[1]
    groups = first.shape[0] // rank
    turned, coefficients, pivots, others = [], [], [], []
    for group, (matrix, after) in enumerate(
        zip(_split(first, groups), split_groups(following, groups), strict=True)
    ):
        chosen, coefficient, basis = pivot_rows(matrix.T)
        pivots.append(group * size + chosen)
        others.append(group * size + _others(chosen, size))
        coefficients.append(coefficient.T)
        turned.append(torch.einsum("or...,sr->os...", after, basis))
    layer.pivots.copy_(torch.cat(pivots))
    layer.others.copy_(torch.cat(others))
    _fill(layer.rest, torch.cat(coefficients))
    return torch.cat(turned).reshape(following.shape)


def _plain_weight(rest: nn.Module) -> Tensor | None:
    """The weight of the layer that a form made (or of a parametrization of it). None for a layer
    that has to be run: one that was wrapped, as by an adapter, and computes more than its weight
    says, or one whose weight is quantized, sharded, or traced by torch.fx."""
    if not isinstance(rest, nn.Linear | nn.modules.conv._ConvNd):
        return None
    weight = rest.weight
    return weight if type(weight) in (Tensor, nn.Parameter) else None


def _apply(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output of `layer` for x with this weight and bias in the place of its own."""
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight, bias)
    result: Tensor = layer._conv_forward(x, weight, bias)  # type: ignore[operator]
    return result


def _split(factor: Tensor, groups: int) -> Tensor:
    """(groups · m, n, *taps) → (groups, m, n · taps), float64."""
    return split_groups(factor.to(torch.float64), groups).flatten(2)


def _others(pivots: Tensor, size: int) -> Tensor:
    """The indices below `size` that are no pivots, ascending."""
    free = torch.ones(size, dtype=torch.bool)
    free[pivots] = False
    return free.nonzero().flatten()


def pointwise_as(like: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """A layer of `like`'s kind and groups without bias, weights uninitialised."""
    if isinstance(like, Stack):
        return empty_stack(like, inputs, outputs)
    weight = dense_weight(like)
    placement: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    if isinstance(like, nn.Linear):
        return nn.Linear(inputs, outputs, bias=False, **placement)
    convolution: type[nn.Conv2d] = type(like)  # type: ignore[assignment]
    return convolution(inputs, outputs, 1, groups=groups_of(like), bias=False, **placement)


def _fill(layer: nn.Module, matrix: Tensor) -> None:
    write_weight_(layer, matrix.reshape(dense_weight(layer).shape))
