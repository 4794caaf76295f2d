"""Inner dimensions in a plan: which there are, in what order their channels go, and which widths
the layers of a plan say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods.elimination import Elimination, eliminate
from pipeline.lowrank.methods.interpolative import Interpolative
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.inner.dimension import InnerDimension
from pipeline.lowrank.network.inner.finding import find_inner
from pipeline.lowrank.network.opening import module_at
from pipeline.lowrank.network.targets import dense_weight

NARROWED = Interpolative.name  # stands in place of a layer's method where its dimension is narrower


@dataclass(frozen=True)
class Narrowing:
    """What a plan knows of the inner dimensions of its network.

    method: its options.
    found: {name: a dimension}, named after the first layer that reads it.
    left: {name: why these channels are no dimension that may be narrowed}.
    eliminations: {name: the order in which its channels go}; computed again where it is missing, as
        in a plan from a file.
    """

    method: Interpolative
    found: Mapping[str, InnerDimension]
    left: Mapping[str, str] = field(default_factory=dict)
    eliminations: Mapping[str, Elimination] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, model: nn.Module, analysis: Analysis, method: Interpolative, example: Any
    ) -> Narrowing:
        """The inner dimensions of a network, with their eliminations. Raises LowRankError without
        an example, on which they are proven."""
        if example is None:
            raise LowRankError(
                f"{method.name} proves inner dimensions on an example: give one (a batch of one)"
            )
        inner = find_inner(model, example, list(analysis.targets))
        return cls(method, inner.found, inner.left).eliminated(model, analysis, inner.found)

    def eliminated(
        self, model: nn.Module, analysis: Analysis, names: Mapping[str, object]
    ) -> Narrowing:
        """The same with the eliminations of these dimensions, in the metric of the analysis."""
        missing = [name for name in names if name not in self.eliminations]
        found = {}
        for name in missing:
            dimension = self.found[name]
            weights = {
                member.layer: dense_weight(module_at(model, member.layer))
                for member in dimension.readers
            }
            found[name] = eliminate(dimension, weights, analysis.metrics)
        return replace(self, eliminations={**self.eliminations, **found})

    def widths(self, layers: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
        """{dimension: its width} of those that are narrowed.

        layers: {target: (method, ranks)}, the decisions of a plan.

        Raises LowRankError where the layers of one dimension say different things.
        """
        found = {}
        for name, dimension in self.found.items():
            said = {member.layer: layers.get(member.layer) for member in dimension.layers}
            narrowed = {n: one for n, one in said.items() if one and one[0] == NARROWED}
            if not narrowed:
                continue
            layer, first = next(iter(narrowed.items()))
            _check_width(layer, first[1], dimension)
            other = next((n for n in said if said[n] != first), None)
            if other is not None:
                raise LowRankError(
                    f"layers {layer!r} and {other!r} are of one inner dimension, and one of them "
                    f"alone says {NARROWED} {first[1][0]}: give all of them that method and width "
                    f"({', '.join(said)}), or none"
                )
            found[name] = first[1][0]
        return found

    def saved(self, widths: Mapping[str, int]) -> Totals:
        """What narrower dimensions save in layers that are no targets, such as norms."""
        gone = [(self.found[name], self.found[name].width - k) for name, k in widths.items()]
        return Totals(
            params=sum(d.other_params * count for d, count in gone),
            macs=0,
            bytes=sum(d.other_bytes * count for d, count in gone),
        )


def _check_width(layer: str, ranks: tuple[int, ...], dimension: InnerDimension) -> None:
    if len(ranks) != 1 or not 1 <= ranks[0] < dimension.width:
        raise LowRankError(
            f"layer {layer!r}: {NARROWED} takes one width in 1..{dimension.width - 1}, not "
            f"{list(ranks)}; correct it, or give dense in all layers of the dimension"
        )
