"""One plan of a policy, from the offers of all layers and the inner dimensions, chosen by
measurement where there is something to measure with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.contest import choose_plan
from pipeline.lowrank.factorize.latency import hold_latency
from pipeline.lowrank.methods import Method
from pipeline.lowrank.planning.further import candidates_further, is_timed_further
from pipeline.lowrank.planning.making import make_plan
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.offers import without_factors
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.planning.policies import Offer, Policy
from pipeline.lowrank.planning.timing.clock import Clock
from pipeline.lowrank.planning.timing.offers import timed

_WHOLE = "its inner dimension keeps all channels, and nothing else competes there"
_NO_FACTORS = "the plan that factorizes no layer measured best"
_TIMED = (0.25, 0.5, 0.75)  # of the channels: a table of times is measured at each such width


@dataclass(frozen=True)
class Choosing:
    """What a plan is chosen from.

    offers, known: of `make_plan`; known: {name: method}.
    names: the methods for one layer at a time that compete.
    narrowing: the inner dimensions; None where no layer may be narrowed.
    divergence: makes the measure of networks against the dense one; None measures nothing.
    clock: that timed offers and dimensions, where latency is what is saved.
    """

    model: nn.Module
    analysis: Analysis
    policy: Policy
    offers: Mapping[str, Offer]
    known: Mapping[str, Method]
    names: Sequence[str]
    narrowing: Narrowing | None
    divergence: Callable[[], Divergence] | None
    seed: int
    clock: Clock | None = None

    def plan_by(self, clock: Clock) -> Plan:
        """`plan` under a budget of latency, which is measured."""
        return hold_latency(self.model, self.analysis, clock, lambda one: self.timed(one).plan())

    def timed(self, clock: Clock) -> Choosing:
        """The same with the times that the clock knows now."""
        narrowing = self.narrowing
        if narrowing is not None:
            narrowing = narrowing.timed(clock)
        offers = timed(self.offers, self.known, clock)
        return replace(self, offers=offers, narrowing=narrowing, clock=clock)

    def plan(self) -> Plan:
        """The plan that the policy makes, or of several that keep its promise the one that measures
        best."""
        make = partial(
            make_plan, self.analysis, methods=self.known, seed=self.seed, clock=self.clock
        )
        choose = partial(choose_plan, self.model, self.policy, divergence=self.divergence)
        narrowing = self.narrowing
        if narrowing is None:
            return choose(partial(make, self.offers))
        if not self.names or narrowing.method.width_only:
            return choose(partial(make, self._apart(narrowing), narrowing=narrowing))
        narrowing = narrowing.with_spectra(self.model, self.analysis, self._further_at(narrowing))
        further = candidates_further(narrowing, self.analysis.targets, self.names, self.known)
        # What is predicted is local: either kind alone may measure better than both.
        wide = without_factors(self.offers, _NO_FACTORS)
        parts = {
            "no layer narrower": partial(make, self.offers),
            "no layer factorized": partial(make, wide, narrowing=narrowing),
        }
        both = partial(make, self.offers, narrowing=narrowing, further=further)
        return choose(both, parts=parts)

    def _apart(self, narrowing: Narrowing) -> dict[str, Offer]:
        """The offers with no factors for the layers of inner dimensions."""
        inside = {member.layer for one in narrowing.found.values() for member in one.layers}
        own = {name: one for name, one in self.offers.items() if name in inside}
        return {**self.offers, **without_factors(own, _WHOLE)}

    def _further_at(self, narrowing: Narrowing) -> dict[str, list[int]]:
        """{inner dimension: the widths at which its layers may be factorized too}."""
        method, found = narrowing.method, narrowing.found
        if self.clock is None:
            return {name: method.shared_widths(one) for name, one in found.items()}
        return {
            name: method.shared_widths(one, _TIMED)
            for name, one in found.items()
            if any(is_timed_further(c) for m in one.layers for c in self.offers[m.layer].candidates)
        }
