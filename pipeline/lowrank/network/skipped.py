"""The weights of a network that are no targets: each with its reason and its share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.lowrank.network.stacks import stack_name
from pipeline.lowrank.network.targets import memory_of


@dataclass(frozen=True)
class Skipped:
    """Why a layer, or a parameter that is in no layer, is no target.

    share: its part of the network's parameters; 0 where another entry has the same ones.
    """

    reason: str
    share: float

    def __str__(self) -> str:
        return f"{self.reason}; {self.share:.1%} of the parameters"


def skipped_weights(
    model: nn.Module,
    targets: Collection[str],
    reasons: Mapping[str, str],
    misread: Mapping[str, str] | None = None,
) -> dict[str, Skipped]:
    """{layer, or parameter: why it is no target}, the largest first: all that is in `reasons`, and
    every other parameter with two dimensions larger than 1 that is in no target.

    targets: the names of the targets.
    reasons: {layer or parameter: its reason}.
    misread: of `costs.trace`, {what might have been a stack: the function that takes it}.
    """
    seen: set[int] = set()
    sizes, every = dict.fromkeys(reasons, 0), 0
    others: dict[str, tuple[int, str]] = {}
    for name, holder, parameter in _parameters(model):
        if (memory := memory_of(parameter)) in seen:
            continue
        seen.add(memory)
        every += parameter.numel()
        if any(above in targets for above in _names_above(name)):
            continue
        owner = next((above for above in _names_above(name) if above in reasons), None)
        if owner is not None:
            sizes[owner] += parameter.numel()
        elif sum(size > 1 for size in parameter.shape) >= 2:
            func = (misread or {}).get(_as_stack(name))
            others[name] = (parameter.numel(), _unread(holder, func))
    found = {name: (size, reasons[name]) for name, size in sizes.items()} | others
    ordered = sorted(found.items(), key=lambda entry: -entry[1][0])
    return {name: Skipped(reason, size / every) for name, (size, reason) in ordered}


def largest(skipped: Mapping[str, Skipped], most: int) -> str:
    """ "a (its reason; 12.0% of the parameters), …, and 3 more (0.5%)" of the largest entries, at
    most `most` of them."""
    ordered = sorted(skipped.items(), key=lambda entry: -entry[1].share)
    shown = ", ".join(f"{name or '(root)'} ({one})" for name, one in ordered[:most])
    rest = sum(one.share for _, one in ordered[most:])
    return shown + (f", and {len(ordered) - most} more ({rest:.1%})" if ordered[most:] else "")


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """(name, the module that holds it, the parameter) of each, once a module."""
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                yield (f"{name}.{key}" if name else key), module, parameter


def _names_above(name: str) -> Iterator[str]:
    """The name itself, also as a stack's, and those of the modules that it is in, the nearest
    first; the root's is ""."""
    yield name
    yield _as_stack(name)
    while name:
        name = name.rpartition(".")[0]
        yield name


def _as_stack(name: str) -> str:
    owner, _, key = name.rpartition(".")
    return stack_name(owner, key)


def _unread(holder: nn.Module, func: str | None) -> str:
    where = f"a parameter of {type(holder).__name__}, which is no layer of a kind that has a form"
    return where if func is None else f"{where}, and is read by {func}, not by a known product"
