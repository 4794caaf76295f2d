"""Stacks: matrices that a module keeps as one parameter of its own and multiplies by itself, as
experts do. The module's own forward stays; the parameter alone is answered for by a layer."""

from __future__ import annotations

from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

CONTAINER = "stacks"  # the child of an opened module that holds its layers


class Stack(nn.Module):
    """One matrix a group, in one parameter. It is no layer that can be called: the module that
    keeps the parameter does the products.

    weight: (groups, out, in) or (groups, in, out), or a matrix alone without groups.
    in_first: whether it is stored with the inputs before the outputs.
    split: of one matrix whose rows or columns have several dimensions, as (in, heads, out of a
        head), how many of the first ones are together its rows; 0 for all others.
    """

    weight: nn.Parameter

    def __init__(self, weight: nn.Parameter, in_first: bool = False, split: int = 0) -> None:
        super().__init__()
        self.weight, self.in_first, self.split = weight, in_first, split
        self.groups = len(weight) if weight.dim() == 3 and not split else 1

    def extra_repr(self) -> str:
        split = f", split={self.split}" if self.split else ""
        return f"{tuple(self.weight.shape)}, in_first={self.in_first}{split}"

    def as_matrices(self, weight: Tensor) -> Tensor:
        """(groups · out, in) of a weight that is stored as this one is."""
        if self.split:
            weight = weight.flatten(self.split).flatten(0, self.split - 1)
        turned = weight.mT if self.in_first else weight
        return turned.flatten(0, -2)

    def as_stored(self, matrices: Tensor) -> Tensor:
        """The inverse of `as_matrices`."""
        turned = matrices
        if self.weight.dim() == 3 and not self.split:
            turned = matrices.reshape(self.groups, -1, matrices.shape[-1])
        turned = turned.mT if self.in_first else turned
        return turned.reshape(self.weight.shape) if self.split else turned


def empty_stack(like: nn.Module, inputs: int, outputs: int) -> Stack:
    """A stack of as many groups as `like` has, uninitialised, with its device and dtype.

    inputs, outputs: of all groups together, as those of a grouped convolution.
    """
    assert isinstance(like, Stack)
    groups = like.groups
    shape = (outputs // groups, inputs // groups)
    lead = () if like.weight.dim() == 2 or like.split else (groups,)
    return Stack(nn.Parameter(like.weight.new_empty(*lead, *shape)))


def put_stack_(owner: nn.Module, key: str, layer: nn.Module) -> None:
    """Lets `layer` answer for the parameter `key` of a module, in place: reading the attribute then
    gives the layer's `weight`. A Stack is what the parameter was before: it comes back."""
    known = dict(getattr(owner, "_modules", {}).get(CONTAINER) or {})
    before = type(owner)
    base: type[nn.Module] = getattr(before, "opened_from", before)
    known.pop(key, None)
    if isinstance(layer, Stack):
        owner._parameters[key] = layer.weight
    else:
        owner._parameters[key] = None  # it keeps its place among the parameters
        known[key] = layer
    if not known:
        owner._modules.pop(CONTAINER, None)
        owner.__class__ = base
        return
    owner.__class__ = _opened(base, tuple(sorted(known)))  # type: ignore[arg-type]
    owner._modules[CONTAINER] = nn.ModuleDict(known).train(owner.training)


def find_stack(
    model: nn.Module, name: str, *, in_first: bool = False, split: int = 0
) -> nn.Module | None:
    """The layer that answers for a parameter, by the name that it has as a target; where there is
    none yet a Stack of the parameter. None where the name is none of a stack.

    in_first, split: how the parameter is stored.
    """
    path, _, key = name.rpartition(".")
    owner_name, _, container = path.rpartition(".")
    if container != CONTAINER:
        return None
    try:
        owner = model.get_submodule(owner_name)
    except AttributeError:
        return None
    held = owner._modules.get(CONTAINER)
    if held is not None and key in held._modules:
        return held._modules[key]
    parameter = owner._parameters.get(key)
    return None if parameter is None else Stack(parameter, in_first, split)


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """(the module that keeps the parameter, the parameter's name in it) of a stack's name."""
    path, _, key = name.rpartition(".")
    return model.get_submodule(path.rpartition(".")[0]), key


def holder_of(name: str) -> str:
    """The name of the module in which a layer is; of a stack that of the module that keeps it."""
    path = name.rpartition(".")[0]
    above, _, container = path.rpartition(".")
    return above if container == CONTAINER else path


def may_keep_stacks(module: nn.Module) -> bool:
    """Whether a parameter of the module's own may be a stack, or is answered for by one."""
    own = module._parameters.values()
    return CONTAINER in module._modules or any(p is not None and p.dim() in (2, 3) for p in own)


def stack_name(owner: str, key: str) -> str:
    """The name that a parameter of the module `owner` has as a target."""
    return ".".join(filter(None, [owner, CONTAINER, key]))


@cache
def _opened(base: type[nn.Module], keys: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of a module's class in which layers answer for some parameters. torch.compile
    leaves its forward to eager torch, which runs the factors one after the other."""

    @wraps(base.forward)
    def forward(self: nn.Module, *given: Any, **named: Any) -> Any:
        return base.forward(self, *given, **named)

    members: dict[str, Any] = {key: _answer(key) for key in keys}
    members |= {"forward": torch.compiler.disable(forward), "opened_from": base}  # type: ignore[no-untyped-call]
    members |= {"__module__": base.__module__, "__qualname__": base.__qualname__}
    # By its own name it would be taken for the class that it was opened from.
    members["__reduce__"] = lambda self: (_unfilled, (base, keys), vars(self))
    return type(base.__name__, (base,), members)


def _unfilled(base: type[nn.Module], keys: tuple[str, ...]) -> nn.Module:
    """An opened module without any attributes, for copies and pickles."""
    cls = _opened(base, keys)  # type: ignore[arg-type]
    return cls.__new__(cls)


def _answer(key: str) -> property:
    def read(self: nn.Module) -> Any:
        container = self._modules[CONTAINER]
        assert container is not None
        return container._modules[key].weight  # type: ignore[union-attr]

    return property(read)
