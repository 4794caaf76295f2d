"""From a junction of channels to the inner dimensions that it may be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

from torch import Tensor, nn

from pipeline.lowrank.network.inner.dimension import InnerDimension, Member, Role
from pipeline.lowrank.network.inner.flow import Junction
from pipeline.lowrank.network.kinds import kind_of
from pipeline.lowrank.network.targets import dense_weight

_SMALLEST = 4  # channels that make a group, such as a head
_LAYOUTS = 4  # members that hold several channels for one: further ones are not tried both ways


def channels_of(model: nn.Module, one: Junction) -> dict[str, int]:
    """{layer: how many channels of the junction it makes or reads}."""
    made = {name: dense_weight(model.get_submodule(name)).shape[0] for name in one.makes}
    return made | {name: dense_weight(model.get_submodule(name)).shape[1] for name in one.reads}


def proposals(
    model: nn.Module, one: Junction, targets: Collection[str], sizes: Mapping[str, int]
) -> list[InnerDimension]:
    """The dimensions that the channels may be: of single channels, or else of groups of them, such
    as heads, with each way in which layers may hold them.

    model: packed modules are open.
    sizes: {parameter: bytes of one of its numbers}.
    """
    own = channels_of(model, one)
    least = min(own.values())
    several = any(size > least for name, size in own.items() if name in one.makes)
    widths = [least]
    if len(one.reads) == 1 and (several or len(one.makes) > 1):  # as attention has it
        widths += [least // each for each in range(_SMALLEST, least // 2 + 1) if least % each == 0]
    return [
        _dimension(model, members, width, targets, sizes)
        for width in widths
        for members in _members(model, one, own, least, width)
    ]


def _dimension(
    model: nn.Module,
    members: Sequence[Member],
    width: int,
    targets: Collection[str],
    sizes: Mapping[str, int],
) -> InnerDimension:
    ordered = sorted(members, key=lambda member: member.layer not in targets)
    inner = sum(member.layer in targets for member in ordered)
    others = [
        (p.numel() // width, sizes[f"{member.layer}.{key}"])
        for member in ordered[inner:]
        for key, p in model.get_submodule(member.layer).named_parameters()
        if width * member.count in p.shape
    ]
    params, size = sum(n for n, _ in others), sum(n * each for n, each in others)
    return InnerDimension(width, tuple(ordered), inner, params, size)


def _members(
    model: nn.Module, one: Junction, own: Mapping[str, int], least: int, width: int
) -> Iterator[list[Member]]:
    """The layers, where some hold several channels for one: side by side, or in parts."""
    roles: list[tuple[str, Role, int]] = [(name, "makes", own[name]) for name in one.makes]
    roles += [(name, "reads", own[name]) for name in one.reads]
    for name in one.passes:
        channels = _passed(model.get_submodule(name))
        if channels and channels % least == 0:  # else it has nothing a channel, or a trial fails
            roles.append((name, "passes", channels))
    several = [name for name, _, size in roles if size > least][:_LAYOUTS]
    for ways in product((False, True), repeat=len(several)):
        in_parts = dict(zip(several, ways, strict=True))
        yield [
            Member(name, role, size // least, least // width)
            if in_parts.get(name)
            else Member(name, role, 1, size // width)
            for name, role, size in roles
        ]


def _passed(module: nn.Module) -> int:
    """How many channels a layer that passes them on has numbers for."""
    if kind_of(module) is not None:
        return dense_weight(module).shape[0]
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return max((max(t.shape, default=0) for t in tensors if isinstance(t, Tensor)), default=0)
