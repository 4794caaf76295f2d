"""The weight of a factorized stack, as the module that keeps it reads it: picking experts,
transposing and multiplying act on the factors, so that products run at the factors' costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.forms.on_demand import OnDemand, attached, without_autocast
from pipeline.lowrank.forms.pivots import PivotedOutput
from pipeline.lowrank.network.products import (
    Product,
    is_same,
    is_transposed,
    picked,
    product_of,
    with_pivots,
)


@dataclass(frozen=True)
class Side:
    """One factor of each group.

    rest: (…, m, n), the numbers that are stored.
    order: (…, rows) for a factor with pivots: its row i is row order[i] of the identity above
        `rest`; None for a factor that `rest` is.
    """

    rest: Tensor
    order: Tensor | None = None

    def __getitem__(self, index: Any) -> Side:
        return Side(self.rest[index], None if self.order is None else self.order[index])

    def each(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Side:
        """The side in another layout or number format."""
        return replace(self, rest=func(self.rest, *args, **kwargs))

    def numbers(self) -> Tensor:
        """(…, rows, n) the whole factor."""
        if self.order is None:
            return self.rest
        return with_pivots(self.rest, self.order)


class StackWeight(OnDemand):
    """last · first, or its transpose: (…, out, in) or (…, in, out); or that matrix with rows or
    columns of several dimensions."""

    first: Side
    last: Side | None
    turned: bool
    _split: int

    @classmethod
    def of(
        cls,
        first: Side,
        last: Side | None,
        turned: bool,
        split: int = 0,
        stored: Sequence[int] = (),
    ) -> StackWeight:
        """first: (…, r, in); last: (…, out, r), None for the identity; turned: whether it is the
        transpose of their product; split: how many dimensions of the shape `stored` are the rows of
        the one matrix, 0 where the last two are matrices."""

        def create() -> StackWeight:
            rows = first if last is None else last
            lead = rows.rest.shape[:-1] if rows.order is None else rows.order.shape
            shape = (*lead, first.rest.shape[-1])
            shape = (*shape[:-2], shape[-1], shape[-2]) if turned else shape
            shape = tuple(stored) if split else shape
            made = cls(partial(_product, first, last, turned, shape), shape, first.rest)
            made.first, made.last, made.turned, made._split = first, last, turned, split
            return made

        sides = [first] if last is None else [first, last]
        found: StackWeight = attached(create, [side.rest for side in sides])
        return found

    def shortcut(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "data_ptr":
            return 0  # as an address it is aligned, which is what kernels ask
        if args and args[0] is self:
            if not self._split and is_transposed(func, args, self.dim()):
                return self._with(self.first, self.last, not self.turned)
            if is_same(func, args):
                last = self.last and self.last.each(func, args[1:], kwargs)
                first = self.first.each(func, args[1:], kwargs)
                return self._with(first, last, self.turned)
            by_group = self.dim() == 3 and not self._split
            if by_group and picked(func, args) is not None:
                last = self.last and self.last[args[1]]
                return self._with(self.first[args[1]], last, self.turned)
            if name == "unbind" and by_group and args[1:] in ((), (0,)) and not kwargs:
                return tuple(self[index] for index in range(len(self)))
        found = product_of(func, args, kwargs, self)
        if found is None or isinstance(found.x, OnDemand) or found.split != self._split:
            return NotImplemented
        return self._multiplied(found)

    def _with(self, first: Side, last: Side | None, turned: bool) -> StackWeight:
        return type(self).of(first, last, turned, self._split, self.shape)

    def _multiplied(self, product: Product) -> Tensor:
        """One product after the other. With W = last · first, as (out, in), it is x · Wᵀ where the
        transpose is asked for of W, or W itself of Wᵀ."""
        outwards = product.turned != self.turned  # the result has the outputs: x · firstᵀ · lastᵀ
        x = product.x
        if product.on_left:
            outwards = not self.turned
        order = [self.first, self.last] if outwards else [self.last, self.first]
        for side in order:
            if side is not None:
                x = _one(product, x, side, outwards)
        x = x.reshape(*x.shape[:-1], *product.shape) if product.split else x
        return x if product.bias is None else x + product.bias


def _one(product: Product, x: Tensor, side: Side, outwards: bool) -> Tensor:
    """The product with one side, which is multiplied by its transpose in the one direction or the
    other."""
    if outwards and side.order is not None:
        return _passing_on(product, x, side.rest, side.order)
    matrix = side.numbers()
    return _times(product, x, matrix if product.on_left == outwards else matrix.mT)


def _passing_on(product: Product, x: Tensor, rest: Tensor, order: Tensor) -> Tensor:
    """The product with a side that has pivots: they are channels of x, and are not computed."""
    made = _times(product, x, rest if product.on_left else rest.mT)
    dim = -2 if product.on_left and x.dim() > 1 else -1
    both = torch.cat([x, made], dim)
    if order.dim() == 1:
        return both.index_select(dim, order)
    if product.ends is not None:
        rows = torch.arange(len(x), device=x.device)
        group = torch.searchsorted(product.ends, rows, right=True)
        return both.gather(-1, order[group.clamp(max=len(order) - 1)])
    order = order[..., None] if dim == -2 else order[..., None, :]
    return both.gather(dim, order.expand(*_with(both.shape, dim, order.shape[dim])))


def _with(shape: Sequence[int], dim: int, size: int) -> list[int]:
    changed = list(shape)
    changed[dim] = size
    return changed


def _times(product: Product, x: Tensor, matrix: Tensor) -> Tensor:
    if product.on_left:
        return matrix @ x
    return x @ matrix if product.ends is None else by_groups(x, matrix, product.ends)


def by_groups(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """(rows, k) · (groups, k, n), the rows of each group together up to its place in `ends`; rows
    after the last one are zero."""
    x = x.to(matrices.dtype)
    aligned = all(size * x.element_size() % 16 == 0 for size in matrices.shape[1:])
    if x.is_cuda and aligned and torch.cuda.get_device_capability(x.device) >= (8, 0):
        return torch.nn.functional.grouped_mm(x, matrices, offs=ends)
    stops = [0, *ends.tolist()]
    parts = [x[start:stop] @ matrices[g] for g, (start, stop) in enumerate(pairwise(stops))]
    left = x.new_zeros(len(x) - stops[-1], matrices.shape[-1])
    return torch.cat([*parts, left])


def stack_weight(
    layers: Sequence[nn.Module], in_first: bool, split: int, shape: Sequence[int]
) -> StackWeight:
    """The weight of the layers that a form made for a stack, as the stack stored it."""
    return StackWeight.of(*_sides(layers), in_first, split, shape)


def multiplied_out(
    layers: Sequence[nn.Module], in_first: bool, split: int, shape: Sequence[int]
) -> Tensor:
    """The numbers of `stack_weight`."""
    return _product(*_sides(layers), in_first, shape)


def _product(first: Side, last: Side | None, turned: bool, shape: Sequence[int]) -> Tensor:
    with without_autocast(first.rest):
        whole = first.numbers() if last is None else last.numbers() @ first.numbers()
    return (whole.mT.contiguous() if turned else whole).reshape(shape)


def _sides(layers: Sequence[nn.Module]) -> tuple[Side, Side | None]:
    first, *last = [_side(layer) for layer in layers]
    return first, last[0] if last else None


def _side(layer: nn.Module) -> Side:
    if not isinstance(layer, PivotedOutput):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return Side(weight)
    rest = layer.rest.weight
    assert isinstance(rest, Tensor)
    if rest.dim() == 2:
        return Side(rest, layer.order)
    groups, rank = len(rest), rest.shape[-1]
    return Side(rest, _within(layer.order.view(groups, -1), rank))


def _within(order: Tensor, rank: int) -> Tensor:
    """(groups, rows) places among the pivots and the computed rows of each group's own, of those
    among the pivots of all groups followed by the computed rows of all."""
    groups, rows = order.shape
    group = torch.arange(groups, device=order.device)[:, None]
    passed = order < groups * rank
    return torch.where(
        passed, order - group * rank, order - groups * rank - group * (rows - rank) + rank
    )
