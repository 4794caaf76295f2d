"""A network and its targets before any statistic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.by_hand import stack_candidates
from pipeline.lowrank.network.calling import count_examples
from pipeline.lowrank.network.costs import (
    Positions,
    Totals,
    describe_target,
    totals_at,
    trace,
    trace_positions,
)
from pipeline.lowrank.network.finding import find_targets
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.skipped import Skipped, skipped_weights
from pipeline.lowrank.network.targets import Target


@dataclass(frozen=True)
class Survey:
    """A network and its targets before any statistic: {name: module} and {name: facts} of the
    targets, why other layers are `skipped`, what the whole network costs, and the example
    that it ran."""

    modules: Mapping[str, nn.Module]
    targets: Mapping[str, Target]
    skipped: Mapping[str, Skipped]
    totals: Totals
    example: Any = None

    def without(self, why: Mapping[str, str]) -> Survey:
        """The survey with some of its targets skipped: {target: its reason}."""
        return replace(
            self,
            modules={name: m for name, m in self.modules.items() if name not in why},
            targets={name: t for name, t in self.targets.items() if name not in why},
            skipped={**self.skipped, **{name: self._skipped(name, why[name]) for name in why}},
        )

    def _skipped(self, name: str, reason: str) -> Skipped:
        return Skipped(reason, self.targets[name].params / self.totals.params)


def survey(
    model: nn.Module,
    example: Any,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    further: Sequence[Any] = (),
) -> Survey:
    """Finds the targets and counts costs, in one forward pass of `example`, a batch of one.

    further: batches that may reach layers which the example does not, as experts that it is not
        routed to. They are run where there are such layers, whose positions are then their mean.

    A layer that no forward pass reaches, or gives more than its input, is skipped, with that
    reason. Raises LowRankError when no target is left, or where a layer has no shape or no numbers
    yet.
    """
    lazy = [n for n, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise LowRankError(f"{lazy[0]} has no shape yet: run the network once, and analyze it then")
    empty = [n for n, p in model.named_parameters() if p.is_meta]
    if empty:
        raise LowRankError(f"{empty[0]} is on the meta device, which has no numbers: load them")
    with opened(model):
        may_be = stack_candidates(model)
        modules, why = find_targets(model, include, exclude, may_be)
        with _further_arguments(modules) as called:
            seen = trace(model, example)
            positions = dict(seen.positions)
            positions |= _reached_later(model, _unused(modules, positions), further)
        for name in may_be.keys() - seen.stacks.keys():  # numbers that are no matrices
            modules.pop(name, None)
            why.pop(name, None)
        modules |= {name: stack for name, stack in seen.stacks.items() if name in modules}
        why |= called
        why |= {n: _why_unused(seen.misread.get(n)) for n in _unused(modules, positions)}
        modules = {name: module for name, module in modules.items() if name not in why}
        skipped = skipped_weights(model, modules.keys(), why, seen.misread)
    if not modules:
        raise LowRankError(
            "the model has no layer to factorize: no target is used in its forward; "
            "docs/layers.md says which layers are targets"
        )
    targets = {n: describe_target(n, m, positions[n]) for n, m in modules.items()}
    return Survey(modules, targets, skipped, totals_at(model, positions, seen.read), example)


def _unused(modules: Iterable[str], positions: Mapping[str, Positions]) -> list[str]:
    return [name for name in modules if positions.get(name, (0,))[-1] == 0]


def _why_unused(func: str | None) -> str:
    """func: the function that takes the layer's weight; None where nothing does."""
    if func is None:
        return "not used in the forward pass"
    return f"no call of it in the forward pass: its weight is read by {func}, by no known product"


def _reached_later(
    model: nn.Module, names: Sequence[str], batches: Sequence[Any]
) -> dict[str, Positions]:
    """{layer: its positions an example, rounded up} of those of the layers that the batches reach;
    the first batch that reaches no other than those before it is the last."""
    totals: dict[str, Positions] = {}
    examples = 0
    for batch in batches if names else ():
        known, found = len(totals), trace_positions(model, batch)
        examples += count_examples(batch)
        for name in names:
            if found.get(name, (0,))[-1]:
                before = totals.get(name, (0,) * len(found[name]))
                totals[name] = tuple(b + f for b, f in zip(before, found[name], strict=True))
        if len(totals) in (known, len(names)):
            break
    return {name: tuple(-(-count // examples) for count in totals[name]) for name in totals}


@contextmanager
def _further_arguments(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, str]]:
    """{layer: why it is no target}, filled in the context, of the layers that are called with more
    than their input, which the layers in their place do not take."""
    found: dict[str, str] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            further = [f"argument {place}" for place in range(2, len(given) + 1)]
            further += [key for key in named if given or key != "input"]
            if further:
                found[name] = f"is called with more than its input ({', '.join(further)})"

        return hook

    handles = [
        module.register_forward_pre_hook(watch(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
