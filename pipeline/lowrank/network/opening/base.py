"""The contract of an opening: how one kind of packed module is made a module of ordinary layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

# A plain attribute of a narrowed module: the names of its tensors and sizes that are others now.
NARROWED_MARK = "narrowed_lowrank"


class Opening(ABC):
    """A packed module holds matrices as plain parameters and multiplies by them itself. Opened, it
    computes the same function by ordinary layers, its children, which have names, hooks and
    positions as all layers have, and may be replaced.

    A module is opened in place: it stays the same object, with the same hooks, mode and attributes,
    under all names that it has; its class, its parameters and its children change. Its new
    parameters share the memory of the packed ones.
    """

    # Whether parameters of an open module may be parts of a larger one, which is then freed.
    makes_parts: ClassVar[bool] = True

    @abstractmethod
    def fits(self, module: nn.Module) -> bool:
        """Whether the module is of this kind and is packed. Only exact classes count: a subclass
        may do anything with its parameters."""

    def obstacle(self, module: nn.Module) -> str | None:
        """Why a module that fits has to stay packed, or None."""
        stored = next((p for p in module._parameters.values() if not is_plain(p)), None)
        if stored is not None:
            return f"weights are stored as {type(stored).__name__}: start from those in float"
        return None

    @abstractmethod
    def open_(self, module: nn.Module) -> None:
        """Opens a module that fits and has no obstacle."""

    @abstractmethod
    def is_open(self, module: nn.Module) -> bool:
        """Whether `open_` of this kind opened the module."""

    @abstractmethod
    def close_(self, module: nn.Module) -> None:
        """Packs an open module again, whose layers are dense; parameters have memory of their
        own."""


def is_plain(parameter: Tensor | None) -> bool:
    """Whether a parameter is a tensor of torch's own, or None."""
    return parameter is None or type(parameter) in (Tensor, nn.Parameter)


def part(packed: nn.Parameter, index: slice | int) -> nn.Parameter:
    """A parameter that shares its memory with a part of a packed one, and trains as that does."""
    return nn.Parameter(packed.detach()[index], packed.requires_grad)


def linear(weight: nn.Parameter, bias: nn.Parameter | None, *, training: bool) -> nn.Linear:
    """A Linear of these parameters themselves, in the given mode; weight: (out, in)."""
    layer = nn.Linear.__new__(nn.Linear)  # without weights that would be drawn first
    nn.Module.__init__(layer)
    layer.out_features, layer.in_features = weight.shape
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer.train(training)


def packed_class(module: nn.Module, opened: Mapping[type[nn.Module], type]) -> type[nn.Module]:
    """The packed class of an open module, of {packed class: open class}."""
    return next(packed for packed, cls in opened.items() if cls is type(module))


def joined(parts: list[Tensor]) -> nn.Parameter:
    """A packed parameter from its parts, one below the other."""
    trained = any(p.requires_grad for p in parts)
    return nn.Parameter(torch.cat([p.detach() for p in parts]), trained)
