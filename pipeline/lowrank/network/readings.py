"""Weights that are read by hand: products with a parameter that no layer's call makes, as those of
experts and of `functional.linear(x, self.qkv.weight)`. They are seen while the network runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.lowrank.network.products import (
    Product,
    in_steps,
    is_same,
    is_transposed,
    picked,
    product_of,
)

_KEPT = "_lowrank_kept"  # attribute of a tensor that was taken from a watched parameter


@dataclass(frozen=True)
class Kept:
    """A watched parameter, or what was taken of it.

    name: the target's.
    turned: whether the last two dimensions are swapped.
    group: the group or groups that were picked; None for all.
    """

    name: str
    turned: bool = False
    group: int | Tensor | None = None


@dataclass(frozen=True)
class Part:
    """What one group multiplies in one call.

    rows: (positions, in).
    of: takes the output, or its gradient, as (positions, out).
    """

    group: int
    rows: Tensor
    of: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reading:
    """One product with a watched parameter, and its result."""

    kept: Kept
    weight: Tensor
    product: Product
    result: Tensor

    @property
    def in_first(self) -> bool:
        """Whether the parameter is stored with the inputs before the outputs."""
        return self.product.in_first(self.kept.turned)

    @property
    def positions(self) -> int:
        """How many rows were multiplied, those of all groups together."""
        if self.product.ends is not None:
            return int(self.product.ends[-1])
        done = self._arranged(self.result)
        return done.numel() // done.shape[-1]

    def parts(self) -> Iterator[Part]:
        """The groups that have a part in it."""
        x, ends, group = self.product.x, self.product.ends, self.kept.group
        if not self.product.split:
            x = self._arranged(x)
        if ends is not None:
            stops = [0, *ends.tolist()]
            for index, (start, stop) in enumerate(pairwise(stops)):
                yield Part(index, x[start:stop], partial(_slice, start=start, stop=stop))
        elif self.weight.dim() == 2 or self.product.split:
            yield Part(int(group or 0), _rows(x), lambda y: _rows(self._arranged(y)))
        else:
            groups = torch.arange(len(self.weight)) if group is None else group
            assert isinstance(groups, Tensor)
            x = _by_matrix(x, len(self.weight))
            for index in sorted(set(groups.tolist())):
                places = (groups == index).nonzero().flatten().to(x.device)
                yield Part(index, x[places].flatten(0, -2), partial(self._picked, places=places))

    def _picked(self, y: Tensor, *, places: Tensor) -> Tensor:
        return _by_matrix(self._arranged(y), len(self.weight))[places].flatten(0, -2)

    def _arranged(self, value: Tensor) -> Tensor:
        """With the channels last: those of the operand of A · x are the last but one."""
        if self.product.split:
            return value.flatten(-len(self.product.shape))
        return value.mT if self.product.on_left and value.dim() > 1 else value


def _slice(y: Tensor, *, start: int, stop: int) -> Tensor:
    return y[start:stop]


def _rows(value: Tensor) -> Tensor:
    return value[None] if value.dim() == 1 else value.flatten(0, -2)


def _by_matrix(value: Tensor, count: int) -> Tensor:
    """(count, positions, channels) of what a product with so many matrices reads or makes."""
    if value.dim() < 3:
        return _rows(value).expand(count, -1, -1)
    if value.dim() > 3:
        value = value.movedim(-3, 0).flatten(1, -2)
    return value.expand(count, -1, -1)


class Watch(TorchFunctionMode):
    """While it is entered, tells of each product with one of the parameters that no call of a layer
    makes.

    parameters: {name: what is watched}.
    layers: {name: the layer whose weight it is}; products within the layer's own call are left out.
    told: is given each Reading; what it returns, if anything, takes the place of the result.

    misread: {name: the function that took the parameter otherwise}.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        layers: Mapping[str, nn.Module],
        told: Callable[[Reading], Tensor | None],
    ) -> None:
        super().__init__()
        self._known = {id(p): (p, Kept(name)) for name, p in parameters.items()}
        self._layers, self._told = layers, told
        self._running: Counter[str] = Counter()
        self.misread: dict[str, str] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """A context in which it watches."""
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                enter = layer.register_forward_pre_hook(partial(self._enter, name))
                stack.callback(enter.remove)
                leave = layer.register_forward_hook(partial(self._leave, name), always_call=True)
                stack.callback(leave.remove)
            stack.enter_context(self)
            yield

    def _enter(self, name: str, *_: object) -> None:
        self._running[name] += 1

    def _leave(self, name: str, *_: object) -> None:
        self._running[name] -= 1

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if (steps := in_steps(func, kwargs)) is not None:
            with self:
                return steps(*args, **kwargs)
        values = [*args, *kwargs.values()]
        for value in values:
            if getattr(type(value), "runs_factors", False):
                with self:  # its factors are weights that may be watched themselves
                    return type(value).__torch_function__(func, types, args, kwargs)
        result = func(*args, **kwargs)
        for value in values:
            for one in value if isinstance(value, list | tuple) else (value,):
                if isinstance(one, Tensor) and (kept := self._kept(one)):
                    result = self._seen(func, args, kwargs, one, kept, result)
        return result

    def _kept(self, value: Tensor) -> Kept | None:
        if id(value) in self._known:
            kept = self._known[id(value)][1]
            return None if self._running[kept.name] else kept
        found: Kept | None = value.__dict__.get(_KEPT)
        return found

    def _seen(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        weight: Tensor,
        kept: Kept,
        result: Any,
    ) -> Any:
        if not (isinstance(result, Tensor) or _holds_tensors(result)):
            return result  # a fact, such as its dtype
        taken = _taken(func, args, kwargs, weight, kept)
        if taken is not None:
            for one, of in zip(_listed(result), taken, strict=True):
                if id(one) not in self._known:
                    one.__dict__[_KEPT] = of
            return result
        product = product_of(func, args, kwargs, weight)
        changed = kept.turned or kept.group is not None
        if product is None or (product.split and changed):
            self.misread.setdefault(kept.name, getattr(func, "__name__", "a function"))
            return result
        told = self._told(Reading(kept, weight, product, result))
        return result if told is None else told


def _taken(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    weight: Tensor,
    kept: Kept,
) -> list[Kept] | None:
    """What a call takes of a watched parameter; None where it is none of the known ways."""
    if not args or args[0] is not weight:
        return None
    if is_same(func, args):
        return [kept]
    if is_transposed(func, args, weight.dim()):
        return [replace(kept, turned=not kept.turned)]
    if weight.dim() < 3 or kept.group is not None:
        return None
    if getattr(func, "__name__", "") == "unbind" and args[1:] in ((), (0,)) and not kwargs:
        return [replace(kept, group=index) for index in range(len(weight))]
    group = picked(func, args)
    if group is None:
        return None
    if isinstance(group, int):
        group %= len(weight)
    return [replace(kept, group=group)]


def _listed(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _holds_tensors(result: Any) -> bool:
    return isinstance(result, list | tuple) and any(isinstance(one, Tensor) for one in result)
