"""The constants (`Gain`) of every kind of step: linear layers, BatchNorm, other layers,
functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.lowrank.bounds import traced_functions as traced
from pipeline.lowrank.bounds.carried import Gain
from pipeline.lowrank.bounds.linear import (
    LinearPair,
    NotCertifiedError,
    batch_norm_scale,
    is_linear,
)
from pipeline.lowrank.bounds.lipschitz import Lipschitz, module_constant, non_negative_constant
from pipeline.lowrank.bounds.norms import EPS

Op = Callable[[Tensor], Tensor]
_BatchNorm = nn.modules.batchnorm._BatchNorm


def linear_gain(pair: LinearPair, maps: tuple[Op, Op], value: Tensor) -> Gain:
    """The constants of a layer with a weight.

    maps: both sides of the pair with their biases (and their BatchNorm).
    value: the layer's input.

    Raises NotCertifiedError where the approximate network has no linear layer in this place.
    """
    example = torch.zeros_like(value[:1])
    if not is_linear(pair.approximate):
        kind = type(pair.approximate).__name__
        raise NotCertifiedError(f"the approximate network has a {kind} here")
    weight, approximate = pair.weight, pair.approximate_weight
    rounding, offsets = pair.rounding(example), _offsets(maps, value)
    dense = pair.norm(weight, example).value
    if torch.equal(weight, approximate):
        return Gain(dense, dense, 0.0, *offsets, rounding)
    other = pair.norm(approximate, example).value
    difference = pair.norm(weight - approximate, example).value
    return Gain(dense, other, difference, *offsets, rounding)


def batch_norm_gain(dense: nn.Module, other: nn.Module, value: Tensor) -> Gain:
    """The constants of an eval BatchNorm that could not be merged into a linear map: a diagonal
    map."""
    scale, approximate = batch_norm_scale(dense), batch_norm_scale(other)
    first, second, change = (
        s.abs().max().item() for s in (scale, approximate, scale - approximate)
    )
    rounding = 8 * EPS * max(first, second)
    return Gain(first, second, change, *_offsets((dense, other), value), rounding)


def module_gain(module: nn.Module, value: Tensor) -> Gain:
    """The constants of a layer that is the same in both networks, for an input like `value`."""
    return _same(module_constant(module, value.shape), module, value)


def function_gain(
    target: Any, op: Op, value: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]
) -> Gain:
    """The constants of a function in the graph.

    target: the function, as fx names it.
    op: the function of its first argument alone.
    value: the first argument.
    rest, kwargs: the other arguments.

    Raises NotCertifiedError where no constant is known.
    """
    if target in traced.AS_MODULE:
        return _same(module_constant(_as_module(target, rest, kwargs), value.shape), op, value)
    if target in traced.NON_NEGATIVE:
        return _same(non_negative_constant(op, value.shape), op, value)
    if target in traced.NEGATE:
        return _same(Lipschitz(1.0), op, value)
    if target in traced.MULTIPLY + traced.DIVIDE and len(rest) == 1 and not kwargs:
        factor = torch.as_tensor(rest[0], dtype=torch.float64).abs()
        size = (1 / factor if target in traced.DIVIDE else factor).max().item()
        grown = op(value).numel() / value.numel()  # by broadcasting
        return _same(Lipschitz(size * math.sqrt(grown)), op, value)
    raise NotCertifiedError("no Lipschitz constant is known for this function")


def folded_into(node: fx.Node, dense: nn.Module) -> fx.Node | None:
    """The convolution before an eval BatchNorm, if that is the only one that reads it; else
    None."""
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return None
    if not isinstance(dense.get_submodule(str(node.target)), _BatchNorm):
        return None
    before = node.all_input_nodes[0]
    if before.op != "call_module" or len(before.users) != 1:
        return None
    module = dense.get_submodule(str(before.target))
    # A matrix maps the last axis, BatchNorm the second: the same only for (N, features).
    kernel = isinstance(module, nn.modules.conv._ConvNd) and not module.transposed
    return before if kernel else None


def equal_modules(dense: nn.Module, other: nn.Module) -> bool:
    """Whether two layers are of one type and hold the same numbers."""
    if dense is other:
        return True
    one, two = dense.state_dict(), other.state_dict()
    same_names = type(dense) is type(other) and one.keys() == two.keys()
    return same_names and all(torch.equal(one[key], two[key]) for key in one)


def _as_module(target: Any, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    return traced.AS_MODULE[target](*rest, **kwargs)


def _same(known: Lipschitz, op: Op, value: Tensor) -> Gain:
    return Gain(
        dense=known.constant,
        approximate=known.constant,
        difference=0.0,
        offset=_offsets((op, op), value)[0],
        offset_difference=0.0,
        rounding=known.rounding,
        local=known.local,
        cap=known.cap,
        activation=known.constant if known.activation else 1.0,
    )


def _offsets(maps: tuple[Op, Op], value: Tensor) -> tuple[float, float]:
    """(‖f(0)‖, ‖f(0) − f̂(0)‖) for one example."""
    with torch.no_grad():
        zeros = [m(torch.zeros_like(value[:1])) for m in maps]
    return float(zeros[0].norm()), float((zeros[0] - zeros[1]).norm())
