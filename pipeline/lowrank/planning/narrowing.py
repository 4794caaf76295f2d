"""Inner dimensions in a plan: which there are, in what order their channels go, and which widths
the layers of a plan say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.methods.elimination import Elimination, eliminate
from pipeline.lowrank.methods.interpolative import (
    Interpolative,
    after_narrowing,
    is_narrower,
    narrowed_candidate,
)
from pipeline.lowrank.methods.narrower import spectra_inside
from pipeline.lowrank.network.calling import beginning_of
from pipeline.lowrank.network.costs import TimedTotals
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.inner.finding import find_inner
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.targets import Target, dense_weight
from pipeline.lowrank.planning.timing.clock import Clock

_TOKENS = 128  # of a text prove as much as all of it, in a fraction of the time
NARROWED = Interpolative.name  # stands in place of a layer's method where its dimension is narrower


@dataclass(frozen=True)
class Narrowing:
    """What a plan knows of the inner dimensions of its network.

    method: its options.
    found: {name: a dimension}, named after the first layer that reads it.
    left: {name: why these channels are no dimension that may be narrowed}.
    orders: {name: (width,) or (groups, width) its channels, those that are kept the longest first}
        of a plan from a file.
    eliminations: {name: the order in which its channels go, with its errors}; computed again where
        they are missing, as in a plan from a file.
    spectra: {name: {width: {layer: its spectra there}}}, from which candidates are made that are
        factorized further.
    clock: times the layers, where latency is what is saved.
    """

    method: Interpolative
    found: Mapping[str, InnerDimension]
    left: Mapping[str, str] = field(default_factory=dict)
    orders: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    eliminations: Mapping[str, Elimination] = field(default_factory=dict, repr=False, compare=False)
    spectra: Mapping[str, Mapping[int, Mapping[str, Spectra]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    clock: Clock | None = field(default=None, repr=False, compare=False)

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
        shown = beginning_of(model, example, _TOKENS)
        inner = find_inner(model, shown, list(analysis.targets))
        return cls(method, inner.found, inner.left).eliminated(model, analysis, inner.found)

    def with_orders(self, names: Iterable[str]) -> Narrowing:
        """The same with the orders that are known of these dimensions, without their errors."""
        new = [name for name in names if name not in self.eliminations]
        found = {name: Elimination(self.orders[name], {}) for name in new}
        return replace(self, eliminations={**self.eliminations, **found})

    def eliminated(
        self, model: nn.Module, analysis: Analysis, names: Mapping[str, object]
    ) -> Narrowing:
        """The same with the eliminations of these dimensions, in the metric of the analysis."""
        known = {name for name, one in self.eliminations.items() if one.errors}
        found = {}
        for name in steps([name for name in names if name not in known], "inner dimensions"):
            dimension = self.found[name]
            weights = _weights(model, dimension.readers)
            order = self.orders.get(name)
            found[name] = eliminate(dimension, weights, analysis.metrics, order)
        return replace(self, eliminations={**self.eliminations, **found})

    def timed(self, clock: Clock) -> Narrowing:
        """The same with times, without the dimensions that the clock cannot time."""
        found = {name: one for name, one in self.found.items() if clock.times(one)}
        untimed = {
            name: f"{one.layer}: {clock.untimed[one.layer]}"
            for name, dimension in self.found.items()
            if name not in found
            for one in dimension.layers
            if one.layer not in clock.calls
        }
        return replace(self, clock=clock, found=found, left={**self.left, **untimed})

    def with_spectra(
        self, model: nn.Module, analysis: Analysis, widths: Mapping[str, Sequence[int]]
    ) -> Narrowing:
        """The same with the spectra of the layers of these dimensions at these widths.

        widths: {name: ascending}; the eliminations of these dimensions are known.
        """
        found = dict(self.spectra)
        for name, wanted in steps(widths.items(), "spectra of widths"):
            known, dimension = found.get(name, {}), self.found[name]
            missing = [width for width in wanted if width not in known]
            if missing:
                weights = _weights(model, dimension.ends)
                given = (self.eliminations[name], weights, analysis.metrics, missing)
                found[name] = {**known, **spectra_inside(dimension, *given)}
        return replace(self, spectra=found)

    def widths(self, layers: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
        """{dimension: its width} of those that are narrowed.

        layers: {target: (method, ranks)}, the decisions of a plan.

        Raises LowRankError where the layers of one dimension say different things.
        """
        found = {}
        for name, dimension in self.found.items():
            said = {member.layer: layers.get(member.layer) for member in dimension.layers}
            narrowed = {n: one for n, one in said.items() if one and is_narrower(one[0])}
            if not narrowed:
                continue
            for layer, one in narrowed.items():
                _check_width(layer, *one, dimension)
            layer, (_, (width, *_)) = next(iter(narrowed.items()))
            other = next((n for n in said if n not in narrowed or narrowed[n][1][0] != width), None)
            if other is not None:
                raise LowRankError(
                    f"layers {layer!r} and {other!r} are of one inner dimension, and one of them "
                    f"alone says {NARROWED} {width}: give all of them that method and width "
                    f"({', '.join(said)}), or none"
                )
            found[name] = width
        return found

    def candidate(self, name: str, member: Member, target: Target, width: int) -> Candidate:
        """What one layer of a dimension becomes where `width` of its channels are kept."""
        errors = self.eliminations[name].errors.get(member.layer)
        error = 0.0 if errors is None else errors[width].item()
        found = narrowed_candidate(member, target, self.found[name], width, error)
        if self.clock is None:
            return found
        return replace(found, latency=self.clock.narrowed(self.found[name], member, width))

    def saved(self, widths: Mapping[str, int]) -> TimedTotals:
        """What narrower dimensions save in layers that are not narrowed or no targets, such as
        norms; of their time nothing is known without a clock."""
        clock, latency = self.clock, 0
        if clock is not None:
            latency = sum(clock.saved(self.found[name], k) for name, k in widths.items())
        gone = [(self.found[name], self.found[name].width - k) for name, k in widths.items()]
        return TimedTotals(
            params=sum(d.other_params * count for d, count in gone),
            macs=sum(d.other_macs * count for d, count in gone),
            bytes=sum(d.other_bytes * count for d, count in gone),
            latency=latency,
        )


def _weights(model: nn.Module, members: Iterable[Member]) -> dict[str, Tensor]:
    return {one.layer: dense_weight(one.module(model)) for one in members}


def _check_width(
    layer: str, method: str, ranks: tuple[int, ...], dimension: InnerDimension
) -> None:
    further = after_narrowing(method)
    several = len(ranks) > 1 if further else len(ranks) == 1
    if not several or not 1 <= ranks[0] < dimension.width:
        then_ranks = f", then the ranks of {further}" if further else ""
        raise LowRankError(
            f"layer {layer!r}: {method} takes one width in 1..{dimension.width - 1}{then_ranks}, "
            f"not {list(ranks)}; correct it, or give dense in all layers of the dimension"
        )
    passes = any(one.layer == layer and one.role == "passes" for one in dimension.layers)
    if further and passes:
        raise LowRankError(
            f"layer {layer!r} passes channels on, each by itself, and is not factorized after it "
            f"was narrowed; give {NARROWED} [{ranks[0]}] there"
        )
