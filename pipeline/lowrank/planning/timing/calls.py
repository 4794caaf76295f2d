"""How the layers of a network are called under a workload, so that each can be run by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.network.inner.dimension import Member
from pipeline.lowrank.network.inner.narrowing import narrowed
from pipeline.lowrank.network.opening import opened


@dataclass(frozen=True)
class Calls:
    """The calls of one layer.

    layer: as it is in the network.
    given: the arguments of each call; tensors of one kind are the same tensor.
    """

    layer: nn.Module
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    @property
    def what(self) -> str:
        """The layer and what it is given, in words that fit no layer of another time."""
        first = next(self.layer.parameters(), None)
        dtype = None if first is None else first.dtype
        inputs = "; ".join(signature(call) for call in self.given)
        layout = "channels last" if _is_last(self.layer) else "as stored"
        return f"{self.layer!r} of {dtype}, {layout}, given {inputs}"

    def of(self, layer: nn.Module) -> Callable[[], None]:
        """Another layer in the place of this one."""
        return partial(_run, layer, self.given)

    def as_it_is(self) -> Callable[[], None]:
        """The layer itself."""
        return self.of(self.layer)

    def narrowed(self, member: Member, kept: int, width: int) -> Calls:
        """The layer with `kept` of the `width` channels of an inner dimension."""
        channels = torch.arange(kept)
        layer = narrowed(self.layer, member, channels, width)
        if member.role == "makes":
            return Calls(layer, self.given)
        index = member.index(channels, width)
        given = [
            ((_selected(self.layer, args[0], index), *args[1:]), named)
            for args, named in self.given
        ]
        return Calls(layer, given)


def calls_of(model: nn.Module, names: Iterable[str], run: Callable[[], object]) -> dict[str, Calls]:
    """{layer: its calls} of those layers that are modules which a run of the network calls, with
    positional tensors."""
    found: dict[str, Calls] = {}
    kinds: dict[str, Tensor] = {}
    hooks = []
    with opened(model):
        modules = dict(model.named_modules())
        for name in names:
            if name in modules:
                found[name] = Calls(modules[name])
                keep = partial(_keep, found[name], kinds)
                hooks.append(modules[name].register_forward_pre_hook(keep, with_kwargs=True))
        try:
            with torch.no_grad():
                run()
        finally:
            for hook in hooks:
                hook.remove()
    return {name: calls for name, calls in found.items() if calls.given}


def _keep(
    calls: Calls,
    kinds: dict[str, Tensor],
    module: nn.Module,
    args: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    if args:
        same = tuple(kinds.setdefault(signature(v), v) if _is_plain(v) else v for v in args)
        calls.given.append((same, named))


def _run(layer: nn.Module, given: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> None:
    for args, named in given:
        layer(*args, **named)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor)


def signature(value: object) -> str:
    """Shapes, strides and number formats of the tensors in it."""
    if isinstance(value, Tensor):
        return f"{value.dtype}{list(value.shape)}/{list(value.stride())}"
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(parts, tuple | list | ValuesView):
        return ", ".join(filter(None, map(signature, parts)))
    return type(value).__name__


def _is_last(layer: nn.Module) -> bool:
    return any(p.dim() == 4 and not p.is_contiguous() for p in layer.parameters(recurse=False))


def _selected(layer: nn.Module, value: Tensor, index: Tensor) -> Tensor:
    """The input with these channels alone, laid out as it was."""
    axis = -1
    if isinstance(layer, nn.modules.conv._ConvNd):
        axis = value.dim() - len(layer.kernel_size) - 1
    elif isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        axis = 1
    chosen = value.index_select(axis, index.to(value.device))
    if value.dim() == 4 and not value.is_contiguous():
        return chosen.contiguous(memory_format=torch.channels_last)
    return chosen
