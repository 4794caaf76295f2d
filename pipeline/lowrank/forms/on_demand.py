"""Weights that are multiplied out when their numbers are asked for. Code that only reads a dtype or
a shape, as T5 does three times a layer, would else pay for a product that it throws away; and code
that multiplies by a weight itself is given what the factors make of it, at the factors' costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pipeline.lowrank.network.products import Product, in_steps, is_transposed, product_of

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
        if (steps := in_steps(func, kwargs or {})) is not None:
            return steps(*args, **(kwargs or {}))
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
    """The weight of a linear layer of several parts, or its transpose. A product with it runs the
    layer itself, also where it is given another bias."""

    _layer: nn.Module
    _in_first: bool | None
    _swapped: bool

    @classmethod
    def of(
        cls,
        layer: nn.Module,
        make: Callable[[], Tensor],
        shape: Sequence[int],
        in_first: bool | None,
        swapped: bool = False,
    ) -> LayerWeight:
        """make, shape: of the numbers; in_first: whether they are stored with the inputs before the
        outputs, None for a layer that is not linear; swapped: whether this is their transpose."""

        def create() -> LayerWeight:
            made = cls(make, shape, next(layer.parameters()))
            made._layer, made._in_first, made._swapped = layer, in_first, swapped
            return made

        found: LayerWeight = attached(create, list(layer.parameters()))
        return found

    def shortcut(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if self._in_first is None:
            return NotImplemented
        if args and args[0] is self and is_transposed(func, args, 2):
            rows, columns = self.shape
            make, swapped = self._make, not self._swapped
            return self.of(self._layer, lambda: make().mT, (columns, rows), self._in_first, swapped)
        product = product_of(func, args, kwargs, self)
        if product is None or isinstance(product.x, OnDemand):
            return NotImplemented
        if product.in_first(self._swapped) != self._in_first:
            return NotImplemented  # a product with the transpose of what the layer does
        return self._run(product)

    def _run(self, product: Product) -> Tensor:
        x, own = product.x, getattr(self._layer, "bias", None)
        on_left = product.on_left and x.dim() > 1
        result: Tensor = self._layer(x.mT if on_left else x)
        if own is not None and product.bias is not own:
            result = result - own
        result = result.mT if on_left else result
        return result if product.bias is None or product.bias is own else result + product.bias


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


def without_autocast(weight: Tensor) -> AbstractContextManager[object]:
    """A context in which factors are multiplied in their own number format. Where autocast is off
    already it is none: torch.export would keep it as part of a graph, which no file can hold."""
    kind = weight.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
