"""Targets: the layers that may be factorized, their weights and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.lowrank.network.kinds import LOOKUPS, computes_weight, is_transposed_linear
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.opening.base import is_plain
from pipeline.lowrank.network.probing import computed_weight
from pipeline.lowrank.network.stacks import Stack


@dataclass(frozen=True)
class Costs:
    """Parameters of a layer, and its multiply-accumulates an example."""

    params: int
    macs: int


@dataclass(frozen=True)
class Target:
    """Facts of one layer that may be factorized; everything that a method needs to count costs.

    kind: one of `kinds.KINDS`, or "stack" for matrices that a module keeps as a parameter of its
        own: one matrix a group, and each position goes through one group alone, as tokens go
        through experts.
    shape: (out, in / groups, *kernel); an Embedding counts as (dimension, entries).
    bias: whether there is one.
    in_positions, out_positions: the numbers of input and output positions per example, summed over
        all calls of the layer in one forward pass (pixels of a convolution, tokens of a Linear, 1
        for a Linear on plain vectors).
    between_positions: for a convolution that goes along one axis after the other, entry j is the
        number of positions after the kernel's first j + 1 axes.
    bytes_per_param: of the weight's number format, which factors keep.
    in_first: whether a stack is stored with the inputs before the outputs.
    split: how many dimensions of a stack are together the rows of one matrix, or 0.
    present: what the layer costs as it is, where that is not its weight: one that is factorized
        already, whose weight is the product of its factors, or one that computes its weight.
    note: what a reader of a plan should know about the weight; may be empty.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bias: bool
    in_positions: int
    out_positions: int
    groups: int = 1
    between_positions: tuple[int, ...] = ()
    bytes_per_param: int = 4
    in_first: bool = False
    split: int = 0
    present: Costs | None = None
    note: str = ""

    @property
    def groups_in_turn(self) -> int:
        """Over how many groups the positions are divided: the groups of a stack take turns, those
        of a convolution all work at each position."""
        return self.groups if self.kind == "stack" else 1

    @property
    def group_shape(self) -> tuple[int, ...]:
        """(out / groups, in / groups, *kernel): the weight of one group."""
        return (self.shape[0] // self.groups, *self.shape[1:])

    @property
    def kernel_size(self) -> int:
        """Number of kernel taps: h·w of a Conv2d, 1 of a Linear."""
        return math.prod(self.shape[2:])

    @property
    def is_matrix(self) -> bool:
        """True when the weight is a matrix: a Linear, or a convolution with one tap."""
        return self.kernel_size == 1

    @property
    def bias_params(self) -> int:
        """The number of parameters of the bias."""
        return self.shape[0] if self.bias else 0

    @property
    def params(self) -> int:
        """Parameters of the layer as it is, bias included."""
        return self.present.params if self.present else math.prod(self.shape) + self.bias_params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layer as it is per example, bias not counted; a lookup has
        none."""
        if self.present:
            return self.present.macs
        if self.is_lookup:
            return 0
        return math.prod(self.shape) * self.kernel_positions // self.groups_in_turn

    @property
    def is_lookup(self) -> bool:
        """Whether the layer reads rows of its weight by number."""
        return self.kind in ("embedding", "embedding_bag")

    @property
    def is_transposed(self) -> bool:
        """Whether this is a transposed convolution."""
        return self.kind.startswith("conv_transpose")

    @property
    def kernel_positions(self) -> int:
        """At how many positions the whole kernel is multiplied: a transposed convolution does so
        for each input position, others for each output position."""
        return self.in_positions if self.is_transposed else self.out_positions

    @property
    def axis_positions(self) -> tuple[int, ...]:
        """As `kernel_positions`, for each of the layers that go along one axis of the kernel after
        the other."""
        every = (self.in_positions, *self.between_positions, self.out_positions)
        return every[:-1] if self.is_transposed else every[1:]


def is_one_layer(module: nn.Module) -> bool:
    """Whether a module stands for one layer of the network: a factorized layer is a Sequential, but
    no chain of the network's own layers."""
    return bool(getattr(module, "stands_for_one_layer", False))


def is_multiplied_out(module: nn.Module) -> bool:
    """Whether a kernel takes the layer's weight as one matrix, so that factors save parameters and
    no multiply-accumulates: the recurrent weights of an LSTM."""
    return bool(getattr(module, "is_multiplied_out", False))


def groups_of(module: nn.Module) -> int:
    """The number of groups of a layer; 1 for all but grouped convolutions and stacks."""
    return int(getattr(module, "groups", 1))


def dense_weight(module: nn.Module) -> Tensor:
    """The layer's weight as (out, in / groups, *kernel), detached, in its own dtype; what it is in
    eval mode for a layer that computes it. It is written by `write_weight_`."""
    weight = computed_weight(module) if computes_weight(module) else module.weight
    assert isinstance(weight, Tensor)
    return _canonical(module, weight.detach())


def weight_of(module: nn.Module) -> Tensor:
    """`dense_weight` with its gradient and with what a parametrization adds to it; the numbers that
    it stands for where it is stored quantized by a tensor class of its own, as torchao does."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if type(weight).dequantize is not Tensor.dequantize:
        weight = weight.dequantize()
    return _canonical(module, weight)


def write_weight_(module: nn.Module, weight: Tensor) -> None:
    """Writes a weight (out, in / groups, *kernel) into the layer, in the layer's own dtype."""
    stored = module.weight
    assert isinstance(stored, Tensor)
    stored.detach().copy_(stored_in(module, weight))


def stored_in(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight (out, in / groups, *kernel), perhaps with fewer outputs or inputs than the layer's
    own, as the layer stores its weight."""
    if isinstance(module, Stack):
        return module.as_stored(weight)
    return as_stored(type(module), weight, groups_of(module))


def as_stored(layer: type[nn.Module], weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, *kernel) → the weight as layers of this class store it: (in, out) for an
    Embedding and for transformers' Conv1D, (in, out / groups, *kernel) for a transposed
    convolution."""
    if issubclass(layer, nn.modules.conv._ConvTransposeNd):
        return _swapped(weight, groups)
    return weight.T if issubclass(layer, LOOKUPS) or is_transposed_linear(layer) else weight


def _canonical(module: nn.Module, stored: Tensor) -> Tensor:
    """The inverse of `as_stored`, which is that itself."""
    if isinstance(module, Stack):
        return module.as_matrices(stored)
    return as_stored(type(module), stored, groups_of(module))


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """(groups · a, b, *kernel) → (groups · b, a, *kernel)."""
    if groups == 1:
        return weight.transpose(0, 1)
    return split_groups(weight, groups).transpose(1, 2).flatten(0, 1)


def memory_of(parameter: Tensor) -> int:
    """Where a parameter's numbers lie, the same for parameters that are tied by their storage; the
    object's own id where it has no numbers of its own."""
    plain = is_plain(parameter) and parameter.numel() > 0 and not parameter.is_meta
    return parameter.data_ptr() if plain else id(parameter)
