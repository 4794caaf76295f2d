"""A value on its way through the network, with bounds on its error, and how steps combine them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.lowrank.bounds.linear import NotCertifiedError, example_norms
from pipeline.lowrank.bounds.norms import EPS


@dataclass(frozen=True)
class Carried:
    """A value h(x) of the dense network, and bounds on its distance to ĥ(x), the approximate
    network's.

    value: (N, …) float64, h of the given inputs.
    error: (N,) ≥ ‖h(x) − ĥ(x)‖ for these inputs.
    norm, worst: ≥ ‖h(x)‖ and ≥ ‖h(x) − ĥ(x)‖ for every x no longer than the longest input.
    """

    value: Tensor
    error: Tensor
    norm: float
    worst: float


@dataclass(frozen=True)
class Gain:
    """Constants of one step f of the dense network and f̂ of the approximate one.

    dense, approximate: Lipschitz constants of f and f̂.
    difference: ‖f − f̂‖, without their offsets.
    offset, offset_difference: ‖f(0)‖ and ‖f(0) − f̂(0)‖.
    rounding: what arithmetic can add for ‖input‖ = 1.
    local, cap: as in `Lipschitz`.
    activation: the constant of an elementwise φ, else 1.
    """

    dense: float
    approximate: float
    difference: float
    offset: float
    offset_difference: float
    rounding: float
    local: Callable[[Tensor, Tensor], Tensor] | None = None
    cap: float = math.inf
    activation: float = 1.0


def advance(carried: Carried, gain: Gain, value: Tensor, source: Tensor | None) -> Carried:
    """The value behind a step: ‖f(h) − f̂(ĥ)‖ ≤ ‖f(h) − f̂(h)‖ + ‖f̂(h) − f̂(ĥ)‖.

    value: f(h).
    source: (N,) ‖f(h) − f̂(h)‖, the error that the step itself makes; None for a step that is the
        same in both networks. The other term is f̂'s constant times the error of h.

    Rounding is part of the bound: that of the four products that are compared, and of the output.
    """
    _check_batch(value, carried)
    before, after = example_norms(carried.value), example_norms(value)
    growth = gain.local(carried.value, carried.error) if gain.local else gain.approximate
    rounded = gain.rounding * (4 * before + carried.error) + 16 * EPS * (after + gain.offset)
    error = growth * carried.error + rounded
    if source is not None:
        error = error + source
    norm = min(gain.dense * carried.norm + gain.offset + gain.rounding * carried.norm, gain.cap)
    norm *= 1 + 16 * EPS
    worst = (
        gain.approximate * carried.worst
        + gain.difference * carried.norm
        + gain.offset_difference
        + gain.rounding * (4 * carried.norm + carried.worst)
        + 16 * EPS * (norm + gain.offset)
    )
    return Carried(value, error, norm, worst)


def rearranged(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    parts: list[Carried],
    call: Callable[..., Any],
) -> Any:
    """The value behind an operation that only moves numbers (reshape, transpose, split, …), which
    keeps norms and errors. Raises NotCertifiedError where it moves them between examples."""
    if not isinstance(args[0], Carried):
        return call(*args, **kwargs)  # an entry of a tuple of values
    carried, rest = args[0], values(args[1:])
    result = call(carried.value, *rest, **values(kwargs))
    # Every number of example n must stay with example n: tried on the numbers n themselves.
    count = len(carried.value)
    index = torch.arange(count, dtype=torch.float64).reshape(-1, *[1] * (carried.value.ndim - 1))
    moved = call(index.expand_as(carried.value).contiguous(), *rest, **values(kwargs))
    for value in moved if isinstance(moved, tuple | list) else [moved]:
        kept = value.ndim and len(value) == count
        if not kept or not torch.equal(value, _like_first(value)):
            raise NotCertifiedError("it moves values from one example of the batch to another")
    if isinstance(result, tuple | list):
        return tuple(replace(carried, value=part) for part in result)
    return replace(carried, value=result)


def _like_first(value: Tensor) -> Tensor:
    index = torch.arange(len(value), dtype=torch.float64)
    return index.reshape(-1, *[1] * (value.ndim - 1)).expand_as(value)


def added(args: tuple[Any, ...], parts: list[Carried], call: Callable[..., Any]) -> Carried:
    """The value of a sum: errors add up (‖I + F‖ ≤ 1 + ‖F‖), and broadcasting makes a value
    √(copies) times as long. Raises NotCertifiedError where it broadcasts over the examples."""
    value = call(*values(args))
    grown = [math.sqrt(value.numel() / carried.value.numel()) for carried in parts]
    error = sum((g * f.error for g, f in zip(grown, parts, strict=True)), value.new_zeros(1))
    zeros = [torch.zeros_like(a.value[:1]) if isinstance(a, Carried) else a for a in args]
    norm = sum(g * f.norm for g, f in zip(grown, parts, strict=True))
    norm += torch.linalg.vector_norm(torch.as_tensor(call(*zeros))).item()
    worst = sum(g * f.worst for g, f in zip(grown, parts, strict=True))
    for carried in parts:
        if len(carried.value) != len(value):
            raise NotCertifiedError("it broadcasts over the examples of the batch")
    _check_batch(value, parts[0])
    error = error + 4 * EPS * example_norms(value)
    return Carried(value, error, norm * (1 + 8 * EPS), worst + 4 * EPS * norm)


def concatenated(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    parts: list[Carried],
    call: Callable[..., Any],
) -> Carried:
    """The value of a concatenation: the squares of norms and errors add up. Raises
    NotCertifiedError where it joins examples, or constants."""
    value = call(*values(args), **values(kwargs))
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    if dim % value.ndim == 0 or len(parts) != len(leaves(args[0] if args else kwargs["tensors"])):
        raise NotCertifiedError("it joins examples of the batch, or values that are constants")
    _check_batch(value, parts[0])
    error = torch.stack([carried.error for carried in parts]).square().sum(0).sqrt()
    norm, worst = (math.hypot(*(getattr(f, k) for f in parts)) for k in ("norm", "worst"))
    return Carried(value, error, norm, worst)


def _check_batch(value: Any, carried: Carried) -> None:
    if not isinstance(value, Tensor) or not value.ndim or len(value) != len(carried.value):
        raise NotCertifiedError("it mixes the examples of the batch, or gives no tensor")
    if value.dtype != torch.float64:
        raise NotCertifiedError(f"it casts to {value.dtype}")


def leaves(value: Any) -> list[Any]:
    """The entries of nested tuples, lists and mappings, in their order."""
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, Mapping):
        return leaves(list(value.values()))
    return [value]


def values(value: Any) -> Any:
    """Nested arguments with each `Carried` replaced by its value."""
    if isinstance(value, Carried):
        return value.value
    if isinstance(value, dict):
        return {key: values(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items: Iterable[Any] = [values(item) for item in value]
        return type(value)(items)
    return value
