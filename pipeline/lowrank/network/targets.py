"""Targets: the layers that may be factorized, found by their kind and by name patterns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.linalg import split_groups
from pipeline.lowrank.network.kinds import is_transposed_linear, kind_of, why_unknown
from pipeline.lowrank.network.opening import closed_reasons

_FORMATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Target:
    """Facts of one layer that may be factorized; everything that a method needs to count costs.

    kind: one of `kinds.KINDS`.
    shape: (out, in / groups, *kernel); an Embedding counts as (dimension, entries).
    bias: whether there is one.
    in_positions, out_positions: the numbers of input and output positions per example, summed over
        all calls of the layer in one forward pass (pixels of a convolution, tokens of a Linear, 1
        for a Linear on plain vectors).
    between_positions: for a convolution that goes along one axis after the other, entry j is the
        number of positions after the kernel's first j + 1 axes.
    bytes_per_param: of the weight's number format, which factors keep.
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
        """Parameters of the dense layer, bias included."""
        return math.prod(self.shape) + self.bias_params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layer per example, bias not counted; an Embedding
        looks its rows up and has none."""
        if self.kind == "embedding":
            return 0
        return math.prod(self.shape) * self.kernel_positions

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


def find_targets(
    model: nn.Module, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Finds the layers to factorize, and why every other layer with a weight matrix is left alone.

    include, exclude: shell-style patterns on module names (the root is ""); exclude wins. A module
        that is reachable under several names is one target, under its first name.

    Inside of a packed module layers have names while it is open: call it in the context `opened`.

    Returns ({name: module}, {name: reason it is skipped}). Raises LowRankError when a pattern
    matches no layer, or when no target is left.
    """
    layers = _layers(model)
    for pattern in [*include, *exclude]:
        if layers and not any(fnmatchcase(name, pattern) for name in layers):
            raise LowRankError(
                f"the pattern {pattern!r} matches no layer: the layers with weight matrices are "
                f"{', '.join(layers)}; correct analyze.include or analyze.exclude"
            )
    tied = _tied_weights(model)
    targets: dict[str, nn.Module] = {}
    skipped = closed_reasons(model)
    for name, module in layers.items():
        if any(fnmatchcase(name, pattern) for pattern in exclude):
            skipped[name] = "excluded by analyze.exclude"
        elif not any(fnmatchcase(name, pattern) for pattern in include):
            skipped[name] = "not in analyze.include"
        elif reason := _obstacle(model, name, module, tied):
            skipped[name] = reason
        else:
            targets[name] = module
    if not targets:
        why = "; ".join(f"{n or '(root)'}: {r}" for n, r in skipped.items())
        raise LowRankError(
            "the model has no layer to factorize: "
            + (f"all are skipped ({why})" if why else "it has no Linear or convolution layer")
        )
    return targets, skipped


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """{name: layer with a weight matrix}; a factorized layer is one layer, whatever is in it."""
    found: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        if is_one_layer(module):
            inside |= {id(part) for part in module.modules() if part is not module}
        if id(module) not in inside and (is_one_layer(module) or _matrix_like(module)):
            found[name] = module
    return found


def is_one_layer(module: nn.Module) -> bool:
    """Whether a module stands for one layer of the network: a factorized layer is a Sequential, but
    no chain of the network's own layers."""
    return bool(getattr(module, "stands_for_one_layer", False))


def groups_of(module: nn.Module) -> int:
    """The number of groups of a layer; 1 for all but grouped convolutions."""
    return int(getattr(module, "groups", 1))


def dense_weight(module: nn.Module) -> Tensor:
    """The layer's weight as (out, in / groups, *kernel), detached, in its own dtype. It is written
    by `write_weight_`."""
    weight = module.weight
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
    stored.detach().copy_(as_stored(type(module), weight, groups_of(module)))


def as_stored(layer: type[nn.Module], weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, *kernel) → the weight as layers of this class store it: (in, out) for an
    Embedding and for transformers' Conv1D, (in, out / groups, *kernel) for a transposed
    convolution."""
    if issubclass(layer, nn.modules.conv._ConvTransposeNd):
        return _swapped(weight, groups)
    return weight.T if issubclass(layer, nn.Embedding) or is_transposed_linear(layer) else weight


def _canonical(module: nn.Module, stored: Tensor) -> Tensor:
    """The inverse of `as_stored`, which is that itself."""
    return as_stored(type(module), stored, groups_of(module))


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """(groups · a, b, *kernel) → (groups · b, a, *kernel)."""
    if groups == 1:
        return weight.transpose(0, 1)
    return split_groups(weight, groups).transpose(1, 2).flatten(0, 1)


def _matrix_like(module: nn.Module) -> bool:
    known = nn.modules.conv._ConvNd | nn.Linear | nn.Bilinear | nn.Embedding | nn.EmbeddingBag
    return isinstance(module, known) or is_transposed_linear(type(module))


def _tied_weights(model: nn.Module) -> dict[int, list[str]]:
    """Memory of a parameter → names of the *different* modules that hold it, where there are
    several."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(memory_of(parameter), []).append(name)
    return {key: names for key, names in holders.items() if len(names) > 1}


def memory_of(parameter: Tensor) -> int:
    """Where a parameter's numbers lie, the same for parameters that are tied by their storage; the
    object's own id where it has no numbers of its own."""
    plain = _is_plain(parameter) and parameter.numel() > 0 and not parameter.is_meta
    return parameter.data_ptr() if plain else id(parameter)


def _is_plain(parameter: object) -> bool:
    return type(parameter) in (Tensor, nn.Parameter)


def _obstacle(
    model: nn.Module, name: str, module: nn.Module, tied: dict[int, list[str]]
) -> str | None:
    """Why this layer cannot be replaced by a Sequential of factors, or None."""
    if is_one_layer(module):
        share = _size(module) / (_size(model) or 1)
        return (
            f"is factorized already ({share:.1%} of the parameters); lr.to_dense_(model) makes it "
            "dense again, to be factorized anew"
        )
    if kind_of(module) is None:
        return why_unknown(module)
    if isinstance(module, nn.Embedding) and (option := _embedding_option(module)):
        return f"Embedding with {option}, which its factors could not keep"
    stored = module.weight
    assert isinstance(stored, Tensor)
    if not _is_plain(stored):
        return f"weights are stored as {type(stored).__name__}: start from those in float"
    weight = dense_weight(module)
    if weight.dtype not in _FORMATS:
        return f"weights are {weight.dtype}, not in a floating point format of two bytes or more"
    others = [n for n in tied.get(memory_of(stored), []) if n != name]
    if others:
        return f"weight is tied to {', '.join(others)}"
    return None


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _embedding_option(module: nn.Embedding) -> str | None:
    """The option of an Embedding that acts on rows of the table itself, which factors do not have;
    None where there is none."""
    if module.max_norm is not None:
        return f"max_norm={module.max_norm}"
    if module.sparse:
        return "sparse=True"
    return "scale_grad_by_freq=True" if module.scale_grad_by_freq else None
