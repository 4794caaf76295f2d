"""The source's three rules, layer by layer: energy, error and compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.costs import Cost
from pipeline.lowrank.planning.policies.base import Choice, LocalPolicy, Option, check_cost

# A sum of squares in float64 is right to about this fraction of the whole; without the slack
# τ=1 or ε=0 on an exactly rank-deficient weight would miss its rank.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Energy(LocalPolicy):
    """The cheapest candidate that keeps the energy fraction τ: ‖W − Ŵ‖² ≤ (1 − τ)‖W‖².
    For the SVD this is min{k : E_k ≥ τ}. τ in (0, 1]."""

    threshold: float = 0.9
    cost: Cost = "params"

    name: ClassVar[str] = "energy"

    def __post_init__(self) -> None:
        check_cost(self.cost)
        if not 0.0 < self.threshold <= 1.0:
            raise LowRankError(f"energy is {self.threshold}: choose a fraction in (0, 1]")

    def choose(self, option: Option) -> Choice:
        limit = 1.0 - self.threshold + _ROUNDING
        return _cheapest(option, self.cost, limit, f"keeps energy {self.threshold:g}")


@dataclass(frozen=True)
class Error(LocalPolicy):
    """The cheapest candidate with relative error ‖W − Ŵ‖/‖W‖ ≤ ε. ε ≥ 0."""

    relative_error: float = 0.3
    cost: Cost = "params"

    name: ClassVar[str] = "error"

    def __post_init__(self) -> None:
        check_cost(self.cost)
        if not self.relative_error >= 0.0:
            raise LowRankError(f"relative_error is {self.relative_error}: choose a number ≥ 0")

    def choose(self, option: Option) -> Choice:
        limit = self.relative_error**2 + _ROUNDING
        return _cheapest(option, self.cost, limit, f"relative error ≤ {self.relative_error:g}")


@dataclass(frozen=True)
class Compute(LocalPolicy):
    """The smallest error among candidates with cost ≤ dense cost / ρ in every layer. ρ > 1.
    A layer with candidates but none that cheap takes its cheapest, and the plan says so."""

    compression_ratio: float = 2.0
    cost: Cost = "params"

    name: ClassVar[str] = "compute"

    def __post_init__(self) -> None:
        check_cost(self.cost)
        if not self.compression_ratio > 1.0:
            raise LowRankError(
                f"compression_ratio is {self.compression_ratio}: choose a number above 1 "
                "(dense / compressed)"
            )

    def choose(self, option: Option) -> Choice:
        return kept_fraction(option, self.cost, 1.0 / self.compression_ratio)


def kept_fraction(option: Option, unit: Cost, fraction: float) -> Choice:
    """The smallest error at no more than `fraction` of the layer's dense cost."""
    front = option.front(unit)
    dense = option.cost(option.dense, unit)
    fitting = [c for c in front if option.cost(c, unit) <= fraction * dense]
    if fitting:
        return Choice(fitting[-1], f"least error at ≤ {fraction:.3g} of the layer's {unit}")
    kept = option.cost(front[0], unit) / dense
    return Choice(front[0], f"smallest rank there is; it keeps {kept:.3g} of the {unit}")


def _cheapest(option: Option, unit: Cost, limit: float, rule: str) -> Choice:
    """The cheapest candidate with relative squared error ≤ limit (dense always qualifies)."""
    chosen = next(c for c in option.front(unit) if option.relative_squared(c) <= limit)
    if chosen.method != "dense":
        return Choice(chosen, f"cheapest in {unit} that satisfies: {rule}")
    return Choice(chosen, f"dense: no rank below break-even satisfies: {rule}")
