"""From a junction of channels to the inner dimensions that it may be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product, takewhile

from torch import Tensor, nn

from pipeline.lowrank.network.inner.dimension import InnerDimension, Member, Role
from pipeline.lowrank.network.inner.flow import Junction
from pipeline.lowrank.network.kinds import kind_of
from pipeline.lowrank.network.stacks import Stack, holder_of
from pipeline.lowrank.network.targets import dense_weight, groups_of

_SMALLEST = 4  # channels that make a group, such as a head
_LAYOUTS = 4  # members that hold several channels for one: further ones are not tried both ways


def channels_of(model: nn.Module, one: Junction) -> dict[str, int]:
    """{layer: how many channels of the junction it makes or reads, each expert of a stack}."""
    sizes = {name: _sides(one.layer(model, name)) for name in [*one.makes, *one.reads]}
    made = {name: sizes[name][0] for name in one.makes}
    return made | {name: sizes[name][1] for name in one.reads}


def _sides(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a layer, or of each matrix of a stack."""
    if isinstance(layer, Stack):
        rows, columns = layer.weight.shape[-2:]
        return (columns, rows) if layer.in_first else (rows, columns)
    outputs, inputs = dense_weight(layer).shape[:2]
    return outputs, inputs


def proposals(model: nn.Module, one: Junction, targets: Collection[str]) -> list[InnerDimension]:
    """The dimensions that the channels may be: of single channels, or else of groups of them, such
    as heads, with each way in which layers may hold them.

    model: packed modules are open.
    """
    own = channels_of(model, one)
    least = min(own.values())
    groups = groups_of(one.layer(model, next(iter(one.makes))))
    several = any(size > least for name, size in own.items() if name in one.makes)
    widths = [least]
    if len(one.reads) == 1 and (several or len(one.makes) > 1):  # as attention has it
        widths += [least // each for each in range(_SMALLEST, least // 2 + 1) if least % each == 0]
    tried = [(w, members) for w in widths for members in _members(model, one, own, least, w)]
    found = [_dimension(members, w, targets, groups) for w, members in tried]
    for width, members in tried:
        for counting in _counting(model, members, one.stacks, width, groups):
            found.append(_dimension([*members, *counting], width, targets, groups))
    return found


def _counting(
    model: nn.Module,
    members: Sequence[Member],
    stacks: Mapping[str, Stack],
    width: int,
    groups: int,
) -> Iterator[tuple[Member, ...]]:
    """The modules around the layers in which something is as many as the channels are, in several
    readings: what else may be many of them, such as the numbers that a layer holds for the
    channels, may be so by chance."""
    ends = [member.count for member in members if member.role != "passes"]
    wholes, ratios = set(ends), {count // min(ends) for count in ends} | {1}
    seen: list[tuple[Member, ...]] = []
    around = _around(model, [member.layer for member in members])
    own = {id(stack.weight) for stack in stacks.values()}
    # What a module adds to what a stack makes lies as that does.
    parts = max((m.parts for m in members if m.layer in stacks and m.role == "makes"), default=1)
    for known in ({1}, ratios, {1, *wholes}, {*ratios, *wholes}):
        counted = {
            name: _counted(module, width, known, groups, own) for name, module in around.items()
        }
        found = tuple(Member(n, "counts", parts, sizes=own) for n, own in counted.items() if own)
        few = any(n in ratios for own in counted.values() for n in own.values())
        if few and found not in seen:
            seen.append(found)
            yield found


def _around(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that hold some of the layers, the outer ones first, up to the first that holds
    all of them; but not the network itself."""
    paths = [holder_of(name).split(".") for name in layers]
    common = sum(
        1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    )
    around = {".".join(path[:n]) for path in paths for n in range(common, len(path) + 1)} - {""}
    ordered = sorted(around, key=lambda name: (name.count("."), name))
    return {name: model.get_submodule(name) for name in ordered}


def _counted(
    module: nn.Module,
    width: int,
    known: Collection[int],
    groups: int,
    without: Collection[int],
) -> dict[str, int]:
    """{attribute: how many of it there are for each channel} of those that are so many times; of
    tensors, with several groups, in each of these.

    without: ids of parameters that are members of the dimension themselves.
    """
    found = {}
    for name, value in {**vars(module), **module._parameters, **module._buffers}.items():
        if id(value) in without:
            continue
        sizes = list(value.shape) if isinstance(value, Tensor) else [value]
        if isinstance(value, Tensor) and groups > 1:
            sizes = sizes[1:] if sizes[:1] == [groups] else []
        times = [n for n in sorted(known) for one in sizes if type(one) is int and one == n * width]
        if times:
            found[name] = times[0]
    return found


def _dimension(
    members: Sequence[Member], width: int, targets: Collection[str], groups: int
) -> InnerDimension:
    ordered = sorted(members, key=lambda member: member.layer not in targets)
    inner = sum(member.layer in targets for member in ordered)
    return InnerDimension(width, tuple(ordered), inner, groups=groups)


def with_costs(
    model: nn.Module, dimension: InnerDimension, sizes: Mapping[str, int]
) -> InnerDimension:
    """The dimension with what its channels take in members that are no targets.

    sizes: {parameter: bytes of one of its numbers}.
    """
    width = dimension.width
    others = [
        (p.numel() // width, sizes[f"{member.layer}.{key}"])
        for member in dimension.members[dimension.targets :]
        for key, p in model.get_submodule(member.layer).named_parameters(recurse=False)
        if (key in member.sizes if member.role == "counts" else width * member.count in p.shape)
    ]
    params, size = sum(n for n, _ in others), sum(n * each for n, each in others)
    return replace(dimension, other_params=params, other_bytes=size)


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
            Member(name, role, *layout, in_first=name in one.stacks and one.stacks[name].in_first)
            for name, role, size in roles
            for layout in [
                (size // least, least // width) if in_parts.get(name) else (1, size // width)
            ]
        ]


def _passed(module: nn.Module) -> int:
    """How many channels a layer that passes them on has numbers for."""
    if kind_of(module) is not None:
        return dense_weight(module).shape[0]
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return max((max(t.shape, default=0) for t in tensors if isinstance(t, Tensor)), default=0)
