"""Costs: parameters and multiply-accumulates, counted on the module itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.by_hand import ByHand
from pipeline.lowrank.network.calling import call, evaluating, layer_input
from pipeline.lowrank.network.kinds import LOOKUPS, computes_weight, kind_of
from pipeline.lowrank.network.opening import module_at, opened
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.network.targets import (
    Costs,
    Target,
    dense_weight,
    groups_of,
    is_multiplied_out,
    memory_of,
)

CountedUnit = Literal["params", "macs", "bytes"]
CostUnit = Literal[CountedUnit, "latency"]
Positions = tuple[int, ...]


@dataclass(frozen=True)
class Totals:
    """Costs of a whole network, targets and everything else.

    params: number of parameters.
    macs: multiply-accumulates of one example's forward pass.
    bytes: memory of the parameters, each in its own number format.
    """

    params: int
    macs: int
    bytes: int

    def cost(self, unit: CostUnit) -> int:
        """The cost in one of the units. Raises LowRankError for the latency, which is measured and
        not counted."""
        if unit == "latency":
            raise LowRankError("latency is measured where a plan is made: lr.plan, plan_from")
        return {"params": self.params, "macs": self.macs, "bytes": self.bytes}[unit]

    def outside(self, unit: CostUnit, targets: int) -> int:
        """The cost of what is in no target, where that of all targets is known."""
        return self.cost(unit) - targets


@dataclass(frozen=True)
class TimedTotals(Totals):
    """Totals of a network whose time was measured.

    latency: nanoseconds of one call of the workload, in the network's fastest memory format.
    surplus: how many more it takes in the format in which its targets were timed.
    """

    latency: int
    surplus: int = 0

    def cost(self, unit: CostUnit) -> int:
        return self.latency if unit == "latency" else super().cost(unit)

    def outside(self, unit: CostUnit, targets: int) -> int:
        more = self.surplus if unit == "latency" else 0
        return super().outside(unit, targets) + more


def network_totals(model: nn.Module, example: Any) -> Totals:
    """Costs of the network as it stands; MACs are those of one `example`, a batch of one."""
    found = trace(model, example)
    return totals_at(model, found.positions, found.read)


def totals_at(
    model: nn.Module, positions: Mapping[str, Positions], read: Mapping[str, Stack]
) -> Totals:
    """Costs of the network; positions and stacks that are read are those of `trace`."""
    return Totals(
        params=count_params(model),
        macs=sum(layer_macs(model, positions, read).values()),
        bytes=sum(p.numel() * p.element_size() for p in _own(model)),
    )


def count_params(model: nn.Module) -> int:
    """Number of parameters; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in _own(model))


def _own(model: nn.Module) -> list[nn.Parameter]:
    """The parameters, each memory once, also where several of them share it."""
    return list({memory_of(parameter): parameter for parameter in model.parameters()}.values())


@dataclass(frozen=True)
class Trace:
    """What one forward pass shows.

    positions: {layer or stack: (input positions, …, output positions)}. A position is one vector of
        channels that the layer reads or writes; the positions of several calls are added up. A
        convolution has an entry more for each further axis of its kernel: after j axes, the first j
        sizes are the output's and the others the input's.
    read: {name: a Stack of a parameter that its module multiplies by as by a matrix, or by one
        matrix a group}.
    misread: {name of a layer, or of a parameter that might have been a stack: the function that
        takes its weight otherwise}.
    """

    positions: Mapping[str, Positions]
    read: Mapping[str, Stack]
    misread: Mapping[str, str]

    @property
    def stacks(self) -> dict[str, Stack]:
        """Those of `read` that are read in no other way."""
        return {name: stack for name, stack in self.read.items() if name not in self.misread}


def trace_positions(model: nn.Module, example: Any) -> Mapping[str, Positions]:
    """The positions of `trace`."""
    return trace(model, example).positions


def trace(model: nn.Module, example: Any) -> Trace:
    """Counts in one forward pass at how many positions each layer works.

    example: a batch of one (a tensor, or a tuple / dict of the model's arguments).

    Products with a layer's weight that no call of the layer makes count as its calls. The modules'
    training modes are restored, and no gradients are kept.
    """
    counts: dict[str, Positions] = {}
    hooks = []
    with opened(model):
        by_hand = ByHand(model, counts)
        for name, module in _counted(model).items():
            hooks.append(module.register_forward_hook(_counter(name, counts), with_kwargs=True))
        try:
            with torch.no_grad(), evaluating(model), by_hand.watch.on():
                call(model, example)
        finally:
            for hook in hooks:
                hook.remove()
    return Trace(counts, by_hand.read(), by_hand.misread())


def layer_macs(
    model: nn.Module,
    positions: Mapping[str, Positions],
    read: Mapping[str, Stack] = MappingProxyType({}),
) -> dict[str, int]:
    """{layer: its multiply-accumulates}; positions and stacks that are read are those of `trace`.

    Linear and convolution layers are counted (normalisation, pooling and activations are not: they
    are additions and comparisons in the order of a percent; an Embedding only looks up).
    """
    layers = {}
    for name, counted in positions.items():
        module = read[name] if name in read else module_at(model, name)
        if not isinstance(module, LOOKUPS):
            transposed = getattr(module, "transposed", False)
            each = groups_of(module) if isinstance(module, Stack) else 1
            numbers = dense_weight(module).numel() // each
            layers[name] = numbers * counted[0 if transposed else -1]
    return layers


def describe_target(name: str, module: nn.Module, positions: Positions) -> Target:
    """The Target of a layer, given its positions from `trace_positions`; one that is multiplied out
    has none, since its factors save no multiply-accumulates.

    Raises LowRankError on NaN or Inf in the weight.
    """
    weight = dense_weight(module)
    if not torch.isfinite(weight).all():
        raise LowRankError(
            f"layer {name!r}: the weight holds NaN or Inf; repair the checkpoint, or leave the "
            f"layer out with analyze.exclude=[{name}]"
        )
    if is_multiplied_out(module):
        positions = (0, 0)
    kind = kind_of(module)
    assert kind is not None, "find_targets gives only layers of a known kind"
    target = Target(
        name=name,
        kind=kind,
        shape=tuple(weight.shape),
        bias=getattr(module, "bias", None) is not None,
        in_positions=positions[0],
        out_positions=positions[-1],
        groups=groups_of(module),
        between_positions=positions[1:-1],
        bytes_per_param=weight.element_size(),
        in_first=isinstance(module, Stack) and module.in_first,
        split=module.split if isinstance(module, Stack) else 0,
    )
    if not computes_weight(module):
        return target
    size = sum(parameter.numel() for parameter in module.parameters())
    note = "the weight that it computes in every call is factorized as it is now"
    return replace(target, present=Costs(size, target.macs), note=note)


def _counted(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have positions; one that is multiplied out is counted as a whole."""
    found: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        whole = is_multiplied_out(module)
        if whole:
            inside |= {id(part) for part in module.modules() if part is not module}
        known = isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or kind_of(module)
        if whole or (known and id(module) not in inside):
            found[name] = module
    return found


def _counter(name: str, counts: dict[str, Positions]) -> Any:
    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if not isinstance(output, Tensor):  # of a subclass that gives several things
            return
        here = _positions(module, layer_input(given, named), output)
        before = counts.get(name, (0,) * len(here))
        counts[name] = tuple(b + h for b, h in zip(before, here, strict=True))

    return hook


def _positions(module: nn.Module, value: Tensor, output: Tensor) -> Positions:
    if not isinstance(module, nn.modules.conv._ConvNd):
        count = output.numel() // output.shape[-1]
        return count, count
    axes = len(module.kernel_size)
    before, after = value.shape[-axes:], output.shape[-axes:]
    examples = value.numel() // (module.in_channels * math.prod(before))
    return tuple(examples * math.prod((*after[:j], *before[j:])) for j in range(axes + 1))
