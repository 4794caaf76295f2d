"""Layers with fewer channels: of the same class, with a part of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.inner.dimension import Member
from pipeline.lowrank.network.kinds import kind_of
from pipeline.lowrank.network.linalg import chosen, put
from pipeline.lowrank.network.opening.base import NARROWED_MARK
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.network.targets import dense_weight, stored_in

# Where a layer keeps how many outputs and inputs it has.
_OUT = ("out_features", "out_channels", "nf", "embedding_dim")
_IN = ("in_features", "in_channels", "nx")


@dataclass(frozen=True)
class NarrowedLayer:
    """What is another size in a narrowed layer than in the dense one.

    sizes: {attribute: its number}; shapes: {parameter or buffer: its shape}.
    """

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


def narrowed(module: nn.Module, member: Member, channels: Tensor, width: int) -> nn.Module:
    """A copy of a layer that keeps `channels` (n,) of an inner dimension of this width, in their
    order, or (groups, n), of each group its own; the numbers of the other channels are left out,
    hooks and mode are kept."""
    if member.role == "counts":
        return _recounted(module, member, channels, width)
    index = _on(module, member.index(channels, width))
    before, now = width * member.count, index.shape[-1]
    if member.role == "reads":  # its bias is on the other side
        return _copy(module, _sizes(module, _IN, now), {"weight": chosen_inputs(module, index)})
    tensors = {
        name: _chosen(module, name, tensor, index, before)
        for name, tensor in _own(module).items()
        if tensor is not None and before in tensor.shape
    }
    if member.role == "makes":
        return _copy(module, _sizes(module, _OUT, now), tensors)
    passing = [key for key, value in vars(module).items() if type(value) is int and value == before]
    return _copy(module, dict.fromkeys(passing, now), tensors)


def _recounted(module: nn.Module, member: Member, channels: Tensor, width: int) -> nn.Module:
    """The module with other numbers of channels, around the very same modules."""
    sizes: dict[str, int] = {}
    tensors: dict[str, Tensor] = {}
    for name, each in member.sizes.items():
        value = getattr(module, name)
        if not isinstance(value, Tensor):
            sizes[name] = channels.shape[-1] * each
            continue
        parts = member.parts if each % member.parts == 0 else 1
        layout = replace(member, parts=parts, each=each // parts)
        index = layout.index(channels, width).to(value.device)
        tensors[name] = _laid_out(_counted(value.detach(), index, width * each), value)
    return _copy(module, sizes, tensors)


def _counted(tensor: Tensor, index: Tensor, before: int) -> Tensor:
    """The entries `index` of the dimension of this size; (groups, n) where the first dimension is
    that of the groups."""
    if index.dim() == 1:
        return tensor.index_select(tensor.shape.index(before), index)
    axis = tensor.shape.index(before, 1)
    pairs = zip(tensor, index, strict=True)
    return torch.stack([one.index_select(axis - 1, own) for one, own in pairs])


def recounted_(module: nn.Module, member: Member, dense: nn.Module) -> None:
    """Gives a module that counts channels the numbers of the dense one, in place."""
    for name in member.sizes:
        value = getattr(dense, name)
        if isinstance(value, nn.Parameter):
            module._parameters[name] = nn.Parameter(value.detach().clone(), value.requires_grad)
        elif isinstance(value, Tensor):
            module._buffers[name] = value.clone()
        else:
            setattr(module, name, value)
    delattr(module, NARROWED_MARK)


def silenced(module: nn.Module, member: Member, channels: Tensor, width: int) -> nn.Module:
    """A copy of a layer that reads an inner dimension, with zeros in place of the weights of all
    but the `channels`."""
    index, weight = _on(module, member.index(channels, width)), dense_weight(module)
    left = put(torch.zeros_like(weight), 1, index, chosen(weight, 1, index))
    return _copy(module, {}, {"weight": stored_in(module, left)})


def shallow(module: nn.Module) -> nn.Module:
    """A module of the very same parameters and modules, whose tables are its own."""
    return _copy(module, {}, {})


def outer_first(names: Iterable[str]) -> list[str]:
    """Names of modules in an order in which they may be replaced: a module that holds others, and
    whose copy holds them as they were, before these."""
    return sorted(names, key=lambda name: name.count("."))


def chosen_inputs(module: nn.Module, index: Tensor) -> Tensor:
    """The weight as the layer stores it, with the input channels `index` alone."""
    stored = module.weight
    assert isinstance(stored, Tensor)
    return _laid_out(stored_in(module, chosen(dense_weight(module), 1, index)), stored)


def narrowing_of(module: nn.Module) -> NarrowedLayer | None:
    """What is another size in this layer, also where it was factorized since; None for a layer that
    was never narrowed."""
    changed = getattr(module, NARROWED_MARK, None)
    if changed is None:
        return None
    values = {name: getattr(module, name) for name in changed}
    return NarrowedLayer(
        {name: v for name, v in values.items() if isinstance(v, int)},
        {name: tuple(v.shape) for name, v in values.items() if not isinstance(v, int)},
    )


def resized(name: str, module: nn.Module, other: NarrowedLayer) -> nn.Module:
    """A copy of the dense layer with these sizes and with uninitialised numbers. Raises
    LowRankError where the layer has no such attribute or tensor, or is smaller."""
    own = _own(module)
    for key, shape in other.shapes.items():
        known = own.get(key)
        fits = known is not None and len(shape) == known.dim()
        if not fits or any(new > old for new, old in zip(shape, known.shape, strict=True)):  # type: ignore[union-attr]
            raise LowRankError(
                f"layer {name!r} cannot be narrowed: its {key} would have the shape "
                f"{list(shape)}; give a network as it was before it was compressed"
            )
    for key in other.sizes:
        if type(vars(module).get(key)) is not int:
            raise LowRankError(f"layer {name!r} cannot be narrowed: it has no size {key!r}")
    tensors = {k: _empty(own[k], shape) for k, shape in other.shapes.items()}
    return _copy(module, other.sizes, tensors)


def _empty(like: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    assert like is not None
    found = like.new_empty(shape)
    return _laid_out(found, like)


def _on(module: nn.Module, index: Tensor) -> Tensor:
    return index.to(next(t for t in _own(module).values() if t is not None).device)


def _sizes(module: nn.Module, names: tuple[str, ...], now: int) -> dict[str, int]:
    return {name: now for name in names if hasattr(module, name)}


def _own(module: nn.Module) -> dict[str, Tensor | None]:
    return {**module._parameters, **module._buffers}


def _chosen(module: nn.Module, name: str, tensor: Tensor, index: Tensor, before: int) -> Tensor:
    """A tensor of a layer with the output channels `index` alone, of `before`."""
    if name != "weight" or kind_of(module) is None:
        axis = tensor.shape.index(before)
        return _laid_out(tensor.detach().index_select(axis, index), tensor)
    return _laid_out(stored_in(module, chosen(dense_weight(module), 0, index)), tensor)


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    last = like.dim() == 4 and not like.is_contiguous()
    if last and like.is_contiguous(memory_format=torch.channels_last):
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def _copy(
    module: nn.Module, sizes: Mapping[str, int], tensors: Mapping[str, Tensor | None]
) -> nn.Module:
    """A module that shares everything with this one but the sizes and tensors that are given; those
    that are of another size are marked, of a stack in the module that keeps its parameter."""
    own = _own(module)
    copied = module.__new__(type(module))
    copied.__dict__.update(vars(module))
    for table in ("_parameters", "_buffers", "_modules"):
        setattr(copied, table, dict(getattr(module, table)))
    for name, tensor in tensors.items():
        parameter = module._parameters.get(name)
        if parameter is None:
            copied._buffers[name] = tensor
        else:
            copied._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)  # type: ignore[arg-type]
    copied.__dict__.update(sizes)
    others = {n for n, t in tensors.items() if t is not None and t.shape != own[n].shape}  # type: ignore[union-attr]
    if (sizes or others) and not isinstance(module, Stack):
        before = getattr(module, NARROWED_MARK, ())
        setattr(copied, NARROWED_MARK, tuple(sorted({*before, *sizes, *others})))
    return copied
