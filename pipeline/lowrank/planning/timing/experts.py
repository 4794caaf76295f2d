"""Experts in one tensor as the clock sees them: no layer is called there, but the module that keeps
the tensor is, and is timed as a whole, with its routing and its activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.inner.narrowing import narrowed, outer_first, shallow
from pipeline.lowrank.network.opening import replace_
from pipeline.lowrank.network.stacks import holder_of
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.timing.calls import Calls

_HELD = "experts"


def keepers(targets: Mapping[str, Target]) -> dict[str, list[str]]:
    """{module that keeps experts in one tensor each: its tensors} of those that keep several, one
    of which may read what another one makes."""
    found: dict[str, list[str]] = {}
    for name, target in targets.items():
        if target.kind == "stack" and target.groups > 1:
            found.setdefault(holder_of(name), []).append(name)
    return {holder: names for holder, names in found.items() if len(names) > 1}


def keeper_of(dimension: InnerDimension, known: Mapping[str, Sequence[str]]) -> str | None:
    """The module that keeps all layers of a dimension, and nothing else that is a target."""
    layers = {member.layer for member in dimension.layers}
    return next((holder for holder, names in known.items() if set(names) == layers), None)


def described(model: nn.Module, targets: Mapping[str, Target]) -> str:
    """What is to be told of a network's experts that nothing else tells: the modules that are timed
    for them, and by which code a model of transformers runs them."""
    holders = keepers(targets)
    code = getattr(getattr(model, "config", None), "_experts_implementation", None)
    return f" {sorted(holders)} {code}" if holders else ""


def narrower(
    calls: Calls, holder: str | None, dimension: InnerDimension, member: Member, kept: int
) -> Calls:
    """The calls of a layer with `kept` of the channels of a dimension; of the module `holder` that
    keeps all layers of the dimension with so many of each expert."""
    if holder is None:
        return calls.narrowed(member, kept, dimension.width)
    channels = torch.arange(kept).expand(dimension.groups, kept)
    whole = nn.ModuleDict({_HELD: shallow(calls.layer)})
    members = {one.layer: one for one in _within(holder, dimension)}
    for name in outer_first(members):
        layer = narrowed(members[name].module(whole), members[name], channels, dimension.width)
        replace_(whole, name, layer)
    return Calls(whole[_HELD], calls.given)


def _within(holder: str, dimension: InnerDimension) -> Iterable[Member]:
    """The members with their names in the module."""
    for member in dimension:
        if member.layer == holder or holder_of(member.layer) == holder:
            yield replace(member, layer=_HELD + member.layer.removeprefix(holder))
