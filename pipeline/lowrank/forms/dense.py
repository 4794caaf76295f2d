"""Factorized layers made dense again: for good, for a while, or one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.opening import close_, replace_
from pipeline.lowrank.network.stacks import find_stack


def to_dense_(model: nn.Module) -> nn.Module:
    """Makes every factorized layer dense again, in place, with the same function: to compress the
    network anew, or for tools that know dense layers only. Modules that were opened for their
    factorized layers are packed again.

    Returns the model (a new object only where the root itself is factorized).
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Factorized):
            model = replace_(model, name, layer.as_dense())
    close_(model)
    return model


def without_factors_(model: nn.Module) -> nn.Module:
    """As `to_dense_`, but modules that were opened stay open, and layers that do not know which
    layer they replaced stay factorized."""
    for name, layer in list(model.named_modules()):
        if is_factorized_anew(layer):
            model = replace_(model, name, dense_of(layer))
    return model


@contextmanager
def multiplied_out(model: nn.Module) -> Iterator[tuple[nn.Module, list[str]]]:
    """A context in which the factorized layers of the model are dense, with the same function;
    afterwards it has the layers that it had.

    Gives the model (another one only where the root itself is factorized) and the names of these
    layers. Those that do not know which layer they replaced stay as they are.
    """
    layers = {n: m for n, m in model.named_modules() if is_factorized_anew(m)}
    dense = {id(layer): dense_of(layer) for layer in layers.values()}
    tables = [(parent._modules, dict(parent._modules)) for parent in model.modules()]
    stacks = {n: m for n, m in layers.items() if find_stack(model, n) is not None}
    for table, children in tables:
        table.update({key: dense.get(id(child), child) for key, child in children.items()})
    for name, layer in stacks.items():
        replace_(model, name, dense[id(layer)])
    try:
        yield dense.get(id(model), model), list(layers)
    finally:
        for name, layer in stacks.items():
            replace_(model, name, layer)
        for table, children in tables:
            table.update(children)


def is_factorized_anew(module: nn.Module) -> bool:
    """Whether this is a factorized layer whose product can be factorized again."""
    return isinstance(module, Factorized) and module.replaced is not None


def dense_of(module: nn.Module) -> nn.Module:
    """The layer itself, or the dense layer of the same function where it is factorized."""
    known = isinstance(module, Factorized) and is_factorized_anew(module)
    return module.as_dense() if known else module  # type: ignore[operator]
