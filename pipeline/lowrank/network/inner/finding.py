"""Finding the inner dimensions of a network: proposed by the flow of channels, then proven."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import device_of, evaluating, placed
from pipeline.lowrank.network.inner.dimension import InnerDimension
from pipeline.lowrank.network.inner.flow import Junction, find_junctions
from pipeline.lowrank.network.inner.proof import Proofs
from pipeline.lowrank.network.inner.proposals import channels_of, proposals, with_costs
from pipeline.lowrank.network.kinds import kind_of
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.opening.base import is_plain
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.network.targets import groups_of

_NOISE = 0.1
_FAR = 0.75  # of the parameters in the layers of many


@dataclass(frozen=True)
class InnerDimensions:
    """What is known of a network's inner dimensions.

    found: {first layer that reads it: a proven dimension}; no layer is in two of them.
    left: {first layer that reads the channels: why they are no such dimension}.
    """

    found: Mapping[str, InnerDimension] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


def find_inner(model: nn.Module, example: Any, targets: Collection[str]) -> InnerDimensions:
    """The inner dimensions between the layers `targets` of a network, which stays as it is.

    example: a batch of one.

    The network is copied in float64, and its numbers are disturbed: a layer whose weight is zero by
    chance would otherwise hide what reads it. Where it does not run in float64 (kernels of experts)
    it is float32. Raises LowRankError where it does not run in that either.
    """
    trial = copy.deepcopy(model)
    with opened(trial), evaluating(trial):
        sizes = {name: p.element_size() for name, p in trial.named_parameters()}
        _disturb_(trial)
        example, junctions = _first_pass(trial, placed(example, device_of(trial)), targets)
        left: dict[str, str] = {}
        proposed: dict[str, list[InnerDimension]] = {}
        for one in junctions:
            if not one.makes:
                continue  # the network's inputs
            name = next(iter(one.reads))
            reason = _obstacle(trial, one, targets)
            if reason is None:
                proposed[name] = proposals(trial, one, targets)
            else:
                left[name] = reason
        proofs = Proofs(trial, example)
        proven, why = proofs.run(proposed)
        found = {name: with_costs(trial, one, sizes) for name, one in proven.items()}
        for one in junctions:
            name = next(iter(one.reads))
            if name in found and _runs_beside(trial, one, found[name]):
                found[name] = replace(found[name], other_macs=proofs.macs_beside(found[name]))
        layers = {member.layer: member for one in found.values() for member in one.layers}
        params = {n: member.module(trial).weight.numel() for n, member in layers.items()}  # type: ignore[operator]
    apart, shared = _apart(found, params)
    return InnerDimensions(apart, {**left, **why, **shared})


def _first_pass(
    model: nn.Module, example: Any, targets: Collection[str]
) -> tuple[Any, list[Junction]]:
    """(the example in the number format in which the network runs, its junctions)."""
    reason = ""
    for dtype in (torch.float64, torch.float32):
        shown = _in_format(example, dtype)
        try:
            found = find_junctions(model.to(dtype).requires_grad_(), shown, targets)
        except Exception as error:  # whatever other people's code raises
            reason = " ".join(str(error).split())[:120]
            continue
        finally:
            model.requires_grad_(False)
        return shown, found
    raise LowRankError(
        "inner dimensions are proven on a copy of the network in float64 or float32, which does "
        f"not run the example ({reason}); leave interpolative out of the methods"
    )


def _in_format(example: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda v: v.to(dtype) if v.is_floating_point() else v, example)


def _disturb_(model: nn.Module) -> None:
    """Makes all numbers of the network float64 and generic, in place."""
    generator = torch.Generator().manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    model.double()
    for parameter in model.parameters():
        if parameter.is_floating_point() and is_plain(parameter):
            parameter.data += _noise(parameter) * drawn(parameter)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data *= 1 + _NOISE * torch.sigmoid(drawn(buffer))


def _noise(parameter: Tensor) -> float:
    """The size of what is added to a parameter: of a vector (a norm, a scale, a bias) so much that
    what is next to nothing counts, of a matrix so much that its outputs are as large as its inputs.
    Attention whose scores are next to nothing would look as if it took the mean."""
    if parameter.numel() == max(parameter.shape, default=1):
        return _NOISE
    return math.sqrt(len(parameter) / parameter.numel())


def _obstacle(model: nn.Module, one: Junction, targets: Collection[str]) -> str | None:
    """Why these channels are no inner dimension, as far as it is seen without a trial."""
    if one.is_output:
        return "its channels are outputs of the network"
    if one.is_input:
        return "its channels are inputs of the network too"
    layers = {name: one.layer(model, name) for name in [*one.makes, *one.reads]}
    for name, layer in layers.items():
        if name not in targets:
            return f"{name}, which makes or reads its channels, is no target"
        if reason := _apart_in(layer):
            return f"{name}, which makes or reads its channels, {reason}"
    groups = {name: groups_of(layer) for name, layer in layers.items()}
    experts = max(groups, key=lambda name: groups[name])
    if other := next((name for name in groups if groups[name] != groups[experts]), None):
        return f"{experts} has a matrix for each expert there, and {other} one for all of them"
    for name in one.passes:
        module = model.get_submodule(name)
        if kind_of(module) is not None and name not in targets:
            return f"{name}, which passes its channels on, is no target"
        numbers = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if groups[experts] > 1 and any(one.numel() > 1 for one in numbers):
            return f"{name}, which passes its channels on, has the same numbers for all experts"
    both = next((name for name in one.makes if name in one.reads), None)
    if both is not None:
        return f"{both} reads the channels that it makes"
    sizes = channels_of(model, one)
    width = min(sizes.values())
    if width == 1:
        return "it has a single channel"
    odd = next((name for name, size in sizes.items() if size % width), None)
    if odd is not None:
        return f"{odd} has {sizes[odd]} channels there, no multiple of {width}"
    return None


def _apart_in(layer: nn.Module) -> str | None:
    """Why the channels of a layer are not to be told apart; None where they are."""
    if not isinstance(layer, Stack):
        return "is a grouped convolution" if groups_of(layer) > 1 else None
    return "has rows or columns of several dimensions" if layer.split else None


def _runs_beside(model: nn.Module, one: Junction, dimension: InnerDimension) -> bool:
    """Whether a layer with products passes the channels on and is no member of the dimension."""
    members = {member.layer for member in dimension}
    beside = [name for name in one.passes if name not in members]
    return any(kind_of(model.get_submodule(name)) is not None for name in beside)


def _apart(
    found: Mapping[str, InnerDimension], params: Mapping[str, int]
) -> tuple[dict[str, InnerDimension], dict[str, str]]:
    """(dimensions of which no two have a layer in common; why the others are left).

    Those that few layers make and read come first, and of these those in whose layers there are
    most parameters: one decision then bears on few layers. A dimension of many layers (a residual
    stream) comes in the place of others only where these have far fewer parameters.
    """
    sizes = {n: sum(params[m.layer] for m in d.layers) for n, d in found.items()}
    ends = {n: len(d.of("makes")) + len(d.of("reads")) for n, d in found.items()}
    chosen: list[str] = []
    order = sorted(found, key=lambda n: (ends[n], -sizes[n]))
    for name in order:
        others = [other for other in chosen if _common(found[name], found[other])]
        if _FAR * sizes[name] > sum(sizes[other] for other in others):
            chosen = [other for other in chosen if other not in others] + [name]
    for name in order:  # what stood in the way of some has gone itself
        if not any(_common(found[name], found[other]) for other in chosen):
            chosen.append(name)
    left: dict[str, str] = {}
    for name in found:
        if name not in chosen:
            other = next(one for one in chosen if _common(found[name], found[one]))
            common = _common(found[name], found[other])[0]
            left[name] = f"shares {common} with the dimension before {other}, which was preferred"
    return {name: found[name] for name in found if name in chosen}, left


def _common(one: InnerDimension, other: InnerDimension) -> list[str]:
    theirs = {member.layer for member in other}
    return [member.layer for member in one if member.layer in theirs]
