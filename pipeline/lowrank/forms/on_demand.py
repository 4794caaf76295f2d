"""A weight that is multiplied out when its numbers are asked for: code that only reads its dtype or
shape, as T5 does three times a layer, would else pay for a product that it throws away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

# What is known of a tensor without its numbers.
_FACTS = {
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_floating_point,
}


class OnDemand(Tensor):
    """A tensor of known shape, dtype and device whose numbers are computed when a function of torch
    takes it, and then kept as long as it lives. For use without gradients."""

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
        if self._made is None:
            self._made = self._make()
        return self._made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
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


def _with_numbers(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> Any:
    given = (args, dict(kwargs or {}))
    values, named = tree_map_only(OnDemand, lambda weight: weight.numbers(), given)
    return func(*values, **named)
