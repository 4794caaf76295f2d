"""From a junction of channels to the inner dimensions that it may be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import get_args

from torch import Tensor, nn

from pipeline.lowrank.network.inner.dimension import InnerDimension, Layout, Member, Role
from pipeline.lowrank.network.inner.flow import Junction
from pipeline.lowrank.network.kinds import kind_of
from pipeline.lowrank.network.targets import dense_weight

_LAYOUTS = 4  # members that hold several channels for one: further ones are not tried both ways


def channels_of(model: nn.Module, one: Junction) -> dict[str, int]:
    """{layer: how many channels of the junction it makes or reads}."""
    made = {name: dense_weight(model.get_submodule(name)).shape[0] for name in one.makes}
    return made | {name: dense_weight(model.get_submodule(name)).shape[1] for name in one.reads}


def proposals(
    model: nn.Module, one: Junction, targets: Collection[str], sizes: Mapping[str, int]
) -> list[InnerDimension]:
    """The dimension with each way in which layers may hold several channels for one.

    model: packed modules are open.
    sizes: {parameter: bytes of one of its numbers}.
    """
    own = channels_of(model, one)
    width = min(own.values())
    plain = list(_members(model, one, own, width))
    plain.sort(key=lambda member: member.layer not in targets)
    inner = sum(member.layer in targets for member in plain)
    others = [
        (p.numel() // width, sizes[f"{member.layer}.{key}"])
        for member in plain[inner:]
        for key, p in model.get_submodule(member.layer).named_parameters()
        if width * member.each in p.shape
    ]
    params, size = sum(n for n, _ in others), sum(n * each for n, each in others)
    several = [member.layer for member in plain if member.each > 1][:_LAYOUTS]
    found = []
    for layouts in product(get_args(Layout), repeat=len(several)):
        chosen: dict[str, Layout] = dict(zip(several, layouts, strict=True))
        members = tuple(
            Member(m.layer, m.role, m.each, chosen.get(m.layer, m.layout)) for m in plain
        )
        found.append(InnerDimension(width, members, inner, params, size))
    return found


def _members(
    model: nn.Module, one: Junction, own: Mapping[str, int], width: int
) -> Iterator[Member]:
    roles: tuple[tuple[Role, Collection[str]], ...] = (("makes", one.makes), ("reads", one.reads))
    for role, names in roles:
        for name in names:
            yield Member(name, role, own[name] // width)
    for name in one.passes:
        channels = _passed(model.get_submodule(name))
        if channels and channels % width == 0:  # else it has nothing a channel, or the trial fails
            yield Member(name, "passes", channels // width)


def _passed(module: nn.Module) -> int:
    """How many channels a layer that passes them on has numbers for."""
    if kind_of(module) is not None:
        return dense_weight(module).shape[0]
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return max((max(t.shape, default=0) for t in tensors if isinstance(t, Tensor)), default=0)
