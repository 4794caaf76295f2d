"""Packed modules are opened: what they multiply by becomes ordinary layers. A new kind of packed
module is a file here and an entry of OPENINGS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pipeline.lowrank.network.opening.attention import Attention
from pipeline.lowrank.network.opening.base import NARROWED_MARK, Opening
from pipeline.lowrank.network.opening.cells import Cell
from pipeline.lowrank.network.opening.fast_path import FastPath
from pipeline.lowrank.network.opening.recurrent import Recurrent
from pipeline.lowrank.network.stacks import find_stack, may_keep_stacks, owner_of, put_stack_

OPENINGS: tuple[Opening, ...] = (FastPath(), Attention(), Recurrent(), Cell())
_TABLES = ("_parameters", "_buffers", "_modules")


@contextmanager
def opened(model: nn.Module) -> Iterator[None]:
    """A context in which every packed module of the model is open, where nothing stands against it
    (`closed_reasons`); afterwards the model is as it was, with the very same parameters."""
    with _as_before(list(model.modules())):
        for module in list(model.modules()):
            _open_(model, module)
        yield


def module_at(model: nn.Module, name: str, *, in_first: bool = False, split: int = 0) -> nn.Module:
    """The module of this name, also inside of a packed module: then a layer that shares its memory
    with the packed parameters, which stay. Of a stack that is a parameter still, a Stack of it.

    in_first, split: how such a parameter is stored.

    Raises AttributeError where the model has none.
    """
    if (stack := find_stack(model, name, in_first=in_first, split=split)) is not None:
        return stack
    with _as_before(_path(model, name)):
        open_towards_(model, name)
        return model.get_submodule(name)


def replace_(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Puts `layer` in the place of the module `name`, under all names that this module has. Packed
    modules on the way to it are opened, for good.

    Returns the model, which is `layer` itself when the module is the root (name "").
    """
    if not name:
        return layer
    if find_stack(model, name) is not None:
        owner, key = owner_of(model, name)
        before = getattr(owner, key).numel()
        put_stack_(owner, key, layer)
        _mark_(owner, key, getattr(owner, key).numel() - before)
        return model
    open_towards_(model, name)
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child_name, child in parent._modules.items():
            if child is old:
                parent._modules[child_name] = layer
    for holder in list(model.modules()):  # under other names
        if _opening_of(holder) is not None and any(part is layer for part in holder.modules()):
            _open_(model, holder)
    _own_memory_(_path(model, name))
    return model


def open_towards_(model: nn.Module, name: str) -> None:
    """Opens the packed modules on the way to `name`, for good."""
    for module in _path(model, name):
        _open_(model, module)


def close_(model: nn.Module) -> None:
    """Packs all modules again that were opened for good and whose layers are dense; one that holds
    another layer, such as an adapter's, stays open, and so does one that has fewer heads, which the
    packed class cannot have."""
    for module in list(model.modules()):
        for opening in OPENINGS:
            dense = not opening.makes_parts or all(
                type(layer) is nn.Linear for layer in module.children()
            )
            if dense and opening.is_open(module) and not hasattr(module, NARROWED_MARK):
                opening.close_(module)
                del vars(module)["__module__"]


def closed_reasons(model: nn.Module) -> dict[str, str]:
    """{packed module: why it cannot be opened}."""
    found = {}
    for name, module in model.named_modules():
        opening = _opening_of(module)
        if opening is not None and (reason := _obstacle(model, module, opening)):
            found[name] = reason
    return found


class Structure:
    """Which modules a network is made of, and which of them are packed, to come back to."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._children = [(module._modules, dict(module._modules)) for module in modules]
        self._packed = [
            _Kept(module)
            for module in modules
            if _opening_of(module) is not None or may_keep_stacks(module)
        ]

    def restore_(self) -> None:
        """All modules have the children that they had, and packed ones are packed again."""
        for table, children in self._children:
            table.clear()
            table.update(children)
        for kept in self._packed:
            kept.restore_()


class _Kept:
    """A module as it is now; its tables of hooks stay the same objects, and its mode is not
    kept."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._class = module, type(module)
        self._attributes = dict(vars(module))
        self._tables = {name: dict(vars(module)[name]) for name in _TABLES}

    def restore_(self) -> None:
        attributes, mode = vars(self._module), self._module.training
        self._module.__class__ = self._class
        attributes.clear()
        attributes.update(self._attributes)
        attributes["training"] = mode
        for name, table in self._tables.items():
            attributes[name].clear()
            attributes[name].update(table)


@contextmanager
def _as_before(modules: list[nn.Module]) -> Iterator[None]:
    """A context after which those of the modules that are packed now are packed again."""
    kept = [_Kept(module) for module in modules if _opening_of(module) is not None]
    try:
        yield
    finally:
        for one in reversed(kept):
            one.restore_()


def _mark_(owner: nn.Module, key: str, change: int) -> None:
    """Keeps in mind that a parameter with fewer numbers than before was narrowed; one with more is
    as it was again."""
    known = set(getattr(owner, NARROWED_MARK, ()))
    known = known | {key} if change < 0 else known - {key} if change > 0 else known
    if known:
        setattr(owner, NARROWED_MARK, tuple(sorted(known)))
    elif hasattr(owner, NARROWED_MARK):
        delattr(owner, NARROWED_MARK)


def _own_memory_(modules: list[nn.Module]) -> None:
    """Parts of packed parameters get memory of their own, so that the packed ones are freed."""
    for module in modules:
        if any(one.makes_parts and one.is_open(module) for one in OPENINGS):
            for parameter in module.parameters():
                if parameter.untyped_storage().nbytes() > parameter.nbytes:
                    parameter.data = parameter.data.clone()


def _path(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules that lead to `name`, from the model on, as far as they exist before anything is
    opened; without the module itself."""
    found, here = [], model
    for key in name.split(".") if name else ():
        found.append(here)
        if key not in here._modules or (child := here._modules[key]) is None:
            break
        here = child
    return found


def _open_(model: nn.Module, module: nn.Module) -> None:
    opening = _opening_of(module)
    if opening is not None and _obstacle(model, module, opening) is None:
        home = type(module).__module__
        opening.open_(module)
        # torch.fx takes modules of torch.nn as one call of its graph, by this attribute.
        vars(module)["__module__"] = home


def _opening_of(module: nn.Module) -> Opening | None:
    return next((opening for opening in OPENINGS if opening.fits(module)), None)


def _obstacle(model: nn.Module, module: nn.Module, opening: Opening) -> str | None:
    """Why a packed module of the model cannot be opened, or None."""
    own = {id(p) for p in module._parameters.values() if p is not None}
    for name, other in model.named_modules():
        if other is not module and own & {id(p) for p in other._parameters.values()}:
            return f"its parameters are tied to {name or 'the whole network'}"
    return opening.obstacle(module)
