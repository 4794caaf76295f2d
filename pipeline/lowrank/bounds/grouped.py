"""Products by groups in float64, in which torch does not have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.lowrank.forms.stacked import by_groups
from pipeline.lowrank.network.products import GROUPED


class GroupedInFloat64(TorchFunctionMode):
    """A mode in which `torch.nn.functional.grouped_mm`, which experts use, takes float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__name__", "") in GROUPED and all(map(_is_exact, args[:2])):
            x, matrices, *rest = args
            return by_groups(x, matrices, named["offs"] if "offs" in named else rest[0])
        return func(*args, **named)


def _is_exact(value: Any) -> bool:
    """Whether this is a plain tensor in float64; views of factors know products by groups."""
    return type(value) in (Tensor, nn.Parameter) and value.dtype == torch.float64
