"""Three policies that look at one layer at a time: energy, error and compute."""

from __future__ import annotations

from typing import ClassVar

from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.planning.policies.base import COST_UNIT, Choice, LocalPolicy, Offer
from pipeline.lowrank.typed import knob, options

# A sum of squares in float64 is right to about this fraction of the whole; without the slack
# τ=1 or ε=0 on an exactly rank-deficient weight would miss its rank.
_ROUNDING = 1e-13


@options
class Energy(LocalPolicy):
    """The cheapest candidate of each layer that keeps the energy fraction τ = `energy`, in (0, 1]:
    ‖W − Ŵ‖² ≤ (1 − τ)‖W‖². For the SVD this is min{k : E_k ≥ τ}."""

    energy: float = knob(default=0.9, gt=0, le=1, help="energy: fraction of ‖W‖² to keep")
    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "energy"

    def choose(self, offer: Offer) -> Choice:
        limit = 1.0 - self.energy + _ROUNDING
        return _cheapest(offer, self.cost_unit, limit, f"keeps energy {self.energy:g}")


@options
class Error(LocalPolicy):
    """The cheapest candidate of each layer with ‖W − Ŵ‖/‖W‖ ≤ `relative_error`, which is ≥ 0."""

    relative_error: float = knob(default=0.3, ge=0, help="error: largest ‖W − Ŵ‖/‖W‖ of a layer")
    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "error"

    def choose(self, offer: Offer) -> Choice:
        limit = self.relative_error**2 + _ROUNDING
        return _cheapest(offer, self.cost_unit, limit, f"relative error ≤ {self.relative_error:g}")


@options
class Compute(LocalPolicy):
    """The candidate of least error with cost ≤ dense cost / `compression_ratio` (> 1) in every
    layer. A layer whose candidates all cost more takes its cheapest one, and the plan says so."""

    compression_ratio: float = knob(
        default=2.0, gt=1, help="compute: dense cost / kept cost of every layer"
    )
    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "compute"

    def choose(self, offer: Offer) -> Choice:
        return kept_fraction(offer, self.cost_unit, 1.0 / self.compression_ratio)


def kept_fraction(offer: Offer, unit: CostUnit, fraction: float) -> Choice:
    """The candidate of least error that costs at most `fraction` of the dense layer; the cheapest
    where all cost more."""
    front = offer.front(unit)
    dense = offer.cost(offer.dense, unit)
    fitting = [c for c in front if offer.cost(c, unit) <= fraction * dense]
    if fitting:
        return Choice(fitting[-1], f"least error at ≤ {fraction:.3g} of the layer's {unit}")
    kept = offer.cost(front[0], unit) / dense
    return Choice(front[0], f"smallest rank there is; it keeps {kept:.3g} of the {unit}")


def _cheapest(offer: Offer, unit: CostUnit, limit: float, rule: str) -> Choice:
    """The cheapest candidate of which no layer has a relative squared error > limit (dense always
    qualifies)."""
    good = (c for c in offer.candidates if offer.worst_squared(c) <= limit)
    chosen = min(good, key=lambda c: (offer.cost(c, unit), c.squared_error))
    if chosen.method != "dense":
        return Choice(chosen, f"cheapest in {unit} that satisfies: {rule}")
    return Choice(chosen, f"dense: no rank below break-even satisfies: {rule}")
