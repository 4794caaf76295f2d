"""Which parameters a network multiplies by itself, and at how many positions: seen in one forward
pass, not known from names or types of modules."""

from __future__ import annotations

from torch import nn

from pipeline.lowrank.network.kinds import (
    computes_weight,
    in_first,
    is_transposed_linear,
    kind_of,
)
from pipeline.lowrank.network.opening.base import is_plain
from pipeline.lowrank.network.readings import Reading, Watch
from pipeline.lowrank.network.stacks import Stack, stack_name
from pipeline.lowrank.network.targets import is_one_layer, memory_of


class ByHand:
    """Watches the parameters of a network that no layer's call multiplies by.

    watch: what has to be entered while the network runs.
    """

    def __init__(self, model: nn.Module, counts: dict[str, tuple[int, ...]]) -> None:
        """counts: {name: (input positions, …, output positions)}, to which it adds."""
        self._counts = counts
        linear = {n: m for n, m in model.named_modules() if kind_of(m) == "linear"}
        self._layers = {n: m for n, m in linear.items() if not computes_weight(m)}
        self._candidates = {
            n: one.weight for n, one in stack_candidates(model, factors=True).items()
        }
        self._stored: dict[str, tuple[bool, int]] = {}
        self._other: dict[str, str] = {}
        weights = {name: layer.weight for name, layer in self._layers.items()}
        self.watch = Watch({**weights, **self._candidates}, self._layers, self._told)

    def read(self) -> dict[str, Stack]:
        """{name: the stack} of those that are read as matrices."""
        return {
            name: Stack(self._candidates[name], in_first, split)
            for name, (in_first, split) in self._stored.items()
        }

    def misread(self) -> dict[str, str]:
        """{name: the function that takes the parameter otherwise}."""
        return {**self.watch.misread, **self._other}

    def _told(self, reading: Reading) -> None:
        name = reading.kept.name
        if name in self._layers:
            if not reads_as(self._layers[name], reading):
                return
        else:
            stored = (reading.in_first, reading.product.split)
            if (known := self._stored.setdefault(name, stored)) != stored:
                same = known[1] == stored[1]
                self._other[name] = (
                    f"a product with {'its transpose' if same else 'another matrix'}"
                )
        before = self._counts.get(name, (0, 0))
        self._counts[name] = (before[0] + reading.positions, before[1] + reading.positions)


def reads_as(layer: nn.Module, reading: Reading) -> bool:
    """Whether a product with a linear layer's weight is what a call of the layer does, but for the
    bias."""
    if reading.product.on_left:
        return False
    return reading.in_first == in_first(type(layer))


def stack_candidates(model: nn.Module, *, factors: bool = False) -> dict[str, Stack]:
    """{name: what may be a stack}: matrices, or one a group, in floating point numbers that no
    other module has too and that belong to no layer of a known kind.

    factors: with the stacks that are factors of factorized ones.
    """
    found = {}
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders[memory_of(parameter)] = holders.get(memory_of(parameter), 0) + 1
    inside: set[int] = set()
    for name, module in model.named_modules():
        if is_one_layer(module) or computes_weight(module):
            inside |= {id(part) for part in module.modules()}
        factor = isinstance(module, Stack)
        if _is_layer(module) or (id(module) in inside and not (factor and factors)):
            continue
        for key, parameter in module._parameters.items():
            if parameter is None or holders[memory_of(parameter)] > 1:
                continue
            if not _fits(parameter, 1 if factor else 2):
                continue
            found[name if factor else stack_name(name, key)] = Stack(parameter)
    return found


def _fits(parameter: nn.Parameter, least: int) -> bool:
    fits = parameter.dim() in (2, 3) and min(parameter.shape[-2:]) >= least
    wide = parameter.is_floating_point() and parameter.element_size() > 1
    return is_plain(parameter) and fits and wide and not parameter.is_meta


def _is_layer(module: nn.Module) -> bool:
    known = nn.modules.conv._ConvNd | nn.Linear | nn.Bilinear | nn.Embedding | nn.EmbeddingBag
    return isinstance(module, known) or is_transposed_linear(type(module))
