"""Weights that are multiplied out when their numbers are asked for. Code that only reads a dtype or
a shape, as T5 does three times a layer, would else pay for a product that it throws away; and code
that multiplies by a weight itself is given what the factors make of it, at the factors' costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

# What is known of a tensor without its numbers.
_FACTS = {
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_floating_point,
    Tensor.__len__,
}


class OnDemand(Tensor):
    """A tensor of known shape, dtype and device whose numbers are computed when a function of torch
    takes it, and then kept as long as it lives. Gradients reach what the numbers are computed
    from, whichever function takes it."""

    runs_factors: ClassVar[bool] = True
    _make: Callable[[], Tensor]
    _made: Tensor | None

    @staticmethod
    def __new__(cls, make: Callable[[], Tensor], shape: Sequence[int], like: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls, shape, dtype=like.dtype, device=like.device, requires_grad=False
        )
        made._make, made._made = make, None
        return made

    def numbers(self) -> Tensor:
        if self._made is None or (torch.is_grad_enabled() and not self._made.requires_grad):
            self._made = self._make()
        return self._made

    def shortcut(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """What `func` gives of these arguments, one of which is this tensor, without its numbers;
        NotImplemented where it takes them."""
        return NotImplemented

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FACTS:
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        for value in (*args, *(kwargs or {}).values()):
            if isinstance(value, OnDemand):
                found = value.shortcut(func, args, kwargs or {})
                if found is not NotImplemented:
                    return found
        return _with_numbers(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _with_numbers(func, args, kwargs)


class LayerWeight(OnDemand):
    """The weight of a layer of several parts: torch.nn.functional.linear runs the layer itself
    in the place of a product with it, also where it is given another bias."""

    _layer: nn.Module

    @classmethod
    def of(cls, layer: nn.Module, make: Callable[[], Tensor], shape: Sequence[int]) -> LayerWeight:
        def create() -> LayerWeight:
            made = cls(make, shape, next(layer.parameters()))
            made._layer = layer
            return made

        found: LayerWeight = attached(create, list(layer.parameters()))
        return found

    def shortcut(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if func is not functional.linear:
            return NotImplemented
        x, weight, bias = _linear_arguments(*args, **kwargs)
        own = getattr(self._layer, "bias", None)
        if weight is not self or isinstance(x, OnDemand):
            return NotImplemented
        result = self._layer(x)
        if bias is own:
            return result
        result = result if own is None else result - own
        return result if bias is None else result + bias


def _linear_arguments(
    input: Any,
    weight: Any,
    bias: Any = None,
) -> tuple[Any, Any, Any]:
    return input, weight, bias


def attached(create: Callable[[], OnDemand], sources: Sequence[Tensor]) -> Any:
    """The tensor that `create` makes. Where gradients are on they reach its `sources` also by ways
    on which functions of torch are not seen, such as custom autograd functions."""
    if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
        return _Attached.apply(create, *sources)  # type: ignore[no-untyped-call]
    return create()


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, create: Callable[[], OnDemand], *sources: Tensor) -> OnDemand:
        made = create()
        ctx.make, ctx.sources = made._make, sources
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [source for source in ctx.sources if source.requires_grad]
        with torch.enable_grad():
            found = torch.autograd.grad(ctx.make(), wanted, gradient, allow_unused=True)
        each = iter(found)
        return (None, *(next(each) if s.requires_grad else None for s in ctx.sources))


def _with_numbers(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> Any:
    given = (args, dict(kwargs or {}))
    values, named = tree_map_only(OnDemand, lambda weight: weight.numbers(), given)
    return func(*values, **named)
