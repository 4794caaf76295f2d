"""Which layers make the channels that a layer reads: seen in the graph that autograd keeps of one
forward pass. It needs no tracer, and so no network that can be traced."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.lowrank.network.by_hand import reads_as
from pipeline.lowrank.network.calling import call, evaluating, layer_input
from pipeline.lowrank.network.kinds import computes_weight, kind_of
from pipeline.lowrank.network.readings import Reading, Watch
from pipeline.lowrank.network.stacks import Stack, find_stack, holder_of
from pipeline.lowrank.network.targets import groups_of


@dataclass
class Junction:
    """Channels that several layers make and read in common: all that is read by a layer which reads
    one of them, and so on.

    makes, passes, reads: names of layers, in the order in which they ran.
    is_output: whether they are outputs of the network too.
    is_input: whether inputs of the network are among them.
    stacks: {name: as it is stored} of those of the layers that are parameters of their modules.
    """

    makes: dict[str, None] = field(default_factory=dict)
    passes: dict[str, None] = field(default_factory=dict)
    reads: dict[str, None] = field(default_factory=dict)
    is_output: bool = False
    is_input: bool = False
    stacks: dict[str, Stack] = field(default_factory=dict)

    def layer(self, model: nn.Module, name: str) -> nn.Module:
        """A layer of the junction, of the network in which it was found."""
        return self.stacks.get(name) or model.get_submodule(name)

    def take(self, other: Junction) -> None:
        """Adds what the other one has."""
        self.makes |= other.makes
        self.passes |= other.passes
        self.reads |= other.reads
        self.is_output |= other.is_output
        self.is_input |= other.is_input
        self.stacks |= other.stacks


def find_junctions(model: nn.Module, example: Any, targets: Collection[str] = ()) -> list[Junction]:
    """The junctions of all layers with weight matrices, in the order in which they are read.

    model: packed modules are open; all parameters require gradients.
    example: a batch of one.
    targets: names, of which those of stacks are read.
    """
    watch = _Watch(model, targets)
    with watch.watching(), torch.enable_grad(), evaluating(model):
        output = call(model, example)
    found = []
    for name, nodes in watch.inputs.items():
        one = watch.sources(nodes)
        one.reads[name] = None
        found.append(one)
    last = watch.sources([v.grad_fn for v in tree_leaves(output) if isinstance(v, Tensor)])
    last.is_output, last.is_input = True, False
    for one in [*found, last]:
        one.stacks = {n: s for n, s in watch.stacks.items() if n in one.makes or n in one.reads}
    return _joined([*found, last])


def _joined(junctions: list[Junction]) -> list[Junction]:
    """Junctions that have a layer which makes channels in common are one."""
    joined: list[Junction] = []
    for one in junctions:
        touching = [other for other in joined if other.makes.keys() & one.makes.keys()]
        for other in touching[1:]:
            touching[0].take(other)
            joined.remove(other)
        if touching:
            touching[0].take(one)
        else:
            joined.append(one)
    return [one for one in joined if one.reads]


def is_mixing(module: nn.Module) -> bool:
    """Whether each output of a layer depends on several of its inputs: it ends the channels that it
    reads, and makes others. A depthwise convolution does not."""
    if kind_of(module) is None:
        return False
    weight = module.weight
    assert isinstance(weight, Tensor)
    return not (groups_of(module) == weight.shape[0] and weight.shape[1] == 1)


def _holds_all(module: nn.Module) -> bool:
    """Whether all numbers of a module are its own, and none of modules inside of it."""
    inside = [part for part in module.modules() if part is not module]
    return not any(part._parameters or part._buffers for part in inside)


class _Watch:
    """One forward pass, seen by hooks on the layers that hold numbers, and by the products with
    their weights that other modules make."""

    def __init__(self, model: nn.Module, targets: Collection[str]) -> None:
        stacks = {name: find_stack(model, name) for name in targets}
        self.parameters = {n: s.weight for n, s in stacks.items() if isinstance(s, Stack)}
        holders = {holder_of(name) for name in self.parameters}
        self.layers = {
            name: module
            for name, module in model.named_modules()
            if (module._parameters or module._buffers)
            and _holds_all(module)
            and name not in holders
        }
        self.stacks: dict[str, Stack] = {}  # of those that were read
        self.inputs: dict[str, list[Any]] = {}  # nodes of the graph; None for what has none
        self.makers: dict[Any, str] = {}  # node of the graph → the layer whose output it is
        self.passers: dict[Any, str] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        linear = {
            name: module
            for name, module in self.layers.items()
            if kind_of(module) == "linear" and not computes_weight(module)
        }
        weights: Mapping[str, Any] = {
            **{name: module._parameters["weight"] for name, module in linear.items()},
            **self.parameters,
        }
        handles: list[Any] = []
        for name, module in self.layers.items():
            mixing = is_mixing(module)
            if mixing:
                hook = self._reader(name)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            handles.append(module.register_forward_hook(self._maker(name, mixing=mixing)))
        try:
            with Watch(weights, linear, self._read_by_hand).on():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _read_by_hand(self, reading: Reading) -> None:
        """A product with a layer's weight that no call of the layer makes counts as a call."""
        name = reading.kept.name
        if name in self.parameters:
            stored = (reading.in_first, reading.product.split)
            self.stacks[name] = Stack(self.parameters[name], *stored)
        elif not reads_as(self.layers[name], reading):
            return
        self.inputs.setdefault(name, []).append(reading.product.x.grad_fn)
        self.makers[reading.result.grad_fn] = name

    def _reader(self, name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            # The node, not the value: what follows may work in place on that.
            self.inputs.setdefault(name, []).append(layer_input(given, named).grad_fn)

        return hook

    def _maker(self, name: str, *, mixing: bool) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                    (self.makers if mixing else self.passers)[leaf.grad_fn] = name

        return hook

    def sources(self, nodes: Collection[Any]) -> Junction:
        """What makes the values of these nodes, back to the layers that mix channels."""
        found, seen = Junction(is_input=None in nodes), {None}
        ahead = list(nodes)
        while ahead:
            node = ahead.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in self.makers:
                found.makes[self.makers[node]] = None
                continue
            if node in self.passers:
                found.passes[self.passers[node]] = None
            ahead += [after for after, _ in node.next_functions]
        return found
