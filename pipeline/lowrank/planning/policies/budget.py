"""One budget for the whole network: min Σ error subject to Σ cost ≤ budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar, Literal, get_args

import torch

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.costs import CostUnit, Totals
from pipeline.lowrank.planning.policies.base import (
    Choice,
    Offer,
    OutOfReachError,
    Policy,
    Selection,
)
from pipeline.lowrank.planning.policies.knapsack import Knapsack, exact, greedy
from pipeline.lowrank.typed import knob, options

Scope = Literal["network", "targets"]
ErrorScale = Literal["relative", "absolute"]
Allocation = Literal["greedy", "exact"]


@options
class Budget(Policy):
    """Keep at most a fraction of the parameters, of the MACs, of the bytes or of the latency (name
    one): min Σ error subject to Σ cost ≤ budget, which is never exceeded. Latency is what a table
    that is measured on this device expects.

    scope: what the fraction is of: "network", where everything that is not a target counts as
        spent, or "targets" alone.
    error_scale: "relative" weighs errors relative to each layer's ‖W‖² (raw Frobenius errors of
        different layers are not comparable); "absolute" takes them as they are.
    max_relative_error: bars candidates with a larger ‖W − Ŵ‖/‖W‖: a sum of errors may otherwise be
        least where one layer loses nearly everything.
    allocation: the solver, `knapsack.greedy` or `knapsack.exact`; both report the optimality gap
        against the bound of linear programming.
    """

    params: float | None = knob(default=None, help="fraction of the parameters to keep, in (0, 1]")
    macs: float | None = knob(
        default=None, help="fraction of the multiply-accumulates to keep, in (0, 1]"
    )
    bytes: float | None = knob(default=None, help="fraction of the bytes to keep, in (0, 1]")
    latency: float | None = knob(default=None, help="fraction of the time to keep, in (0, 1]")
    scope: Scope = knob(
        default="network",
        help="budget: the fraction is of the whole network, or of the targets alone",
    )
    error_scale: ErrorScale = knob(
        default="relative",
        help="budget: how errors of layers are weighed: relative to each ‖W‖², or as they are",
    )
    allocation: Allocation = knob(
        default="greedy", help="budget: the solver; exact is dynamic programming"
    )
    max_relative_error: float | None = knob(
        default=None,
        ge=0,
        help="budget: candidates with a larger ‖W − Ŵ‖/‖W‖ are barred; null bars none",
    )

    name: ClassVar[str] = "budget"

    def __post_init__(self) -> None:
        if len(self._given()) != 1:
            raise LowRankError("give the budget as one of params, macs, bytes and latency")
        if not 0.0 < self.kept <= 1.0:
            raise LowRankError(f"budget is {self.kept}: choose a kept fraction in (0, 1]")

    @classmethod
    def from_knobs(cls, knobs: Mapping[str, object]) -> Budget:
        """The policy of a configuration: `budget` is the fraction, `cost_unit` its unit."""
        unit, own = knobs["cost_unit"], ("scope", "error_scale", "allocation", "max_relative_error")
        if unit not in get_args(CostUnit):
            raise LowRankError(f"cost_unit is {unit!r}: {suggest(unit, get_args(CostUnit))}")
        kept = {str(unit): knobs["budget"]}
        return cls(**kept, **{key: knobs[key] for key in own if key in knobs})  # type: ignore[arg-type]

    def rivals(self) -> tuple[Policy, ...]:
        """The policy with either error scale: measurement says which of them spends the budget
        better."""
        return (replace(self, error_scale="absolute"), replace(self, error_scale="relative"))

    def _given(self) -> dict[CostUnit, float]:
        kept: dict[CostUnit, float | None]
        kept = {"params": self.params, "macs": self.macs, "bytes": self.bytes}
        kept["latency"] = self.latency
        return {unit: value for unit, value in kept.items() if value is not None}

    @property
    def cost_unit(self) -> CostUnit:
        return next(iter(self._given()))

    @property
    def kept(self) -> float:
        """The fraction that is kept."""
        return self._given()[self.cost_unit]

    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        # By name: equally good choices are not to follow from the order of the layers.
        allowed = {n: self._allowed(offers[n]) for n in sorted(offers)}
        relative = self.error_scale == "relative"
        fronts = {n: o.front(self.cost_unit, relative=relative) for n, o in allowed.items()}
        solve = greedy if self.allocation == "greedy" else exact
        solution = solve(
            Knapsack(
                [
                    torch.tensor([offers[n].cost(c, self.cost_unit) for c in f])
                    for n, f in fronts.items()
                ],
                [
                    torch.tensor([self._error(offers[n], c) for c in f], dtype=torch.float64)
                    for n, f in fronts.items()
                ],
                self.allowance(allowed, totals),
            )
        )
        gap = (solution.error - solution.bound) / solution.error if solution.error > 0 else 0.0
        return Selection(
            {
                name: self._choice(offers[name], front[item])
                for (name, front), item in zip(fronts.items(), solution.items, strict=True)
            },
            max(0.0, gap),
        )

    def allowance(self, offers: Mapping[str, Offer], totals: Totals) -> int:
        """The cost that all targets may have together. Raises LowRankError where it is below the
        smallest that is possible."""
        unit = self.cost_unit
        dense = sum(offer.cost(offer.dense, unit) for offer in offers.values())
        whole = totals.cost(unit) if self.scope == "network" else dense
        fixed = totals.outside(unit, dense) if self.scope == "network" else 0
        # The fraction as it was written: 0.7 of 10 is 7, not the float product's 6.99….
        allowed = math.floor(Fraction(repr(self.kept)) * whole) - fixed
        floor = sum(min(o.cost(c, unit) for c in o.candidates) for o in offers.values())
        if allowed < floor:
            limit = self.max_relative_error
            within = "" if limit is None else f" within max_relative_error={limit:g}"
            least = (fixed + floor) / whole
            told = (
                f"a budget of {self.kept:g} of the {unit} cannot be met: with every target at its "
                f"smallest rank{within} the {self.scope} keeps {least:.4f}; choose at least "
                f"{_round_up(least)}, or factorize more layers"
            )
            raise OutOfReachError(told, least) if self.scope == "network" else LowRankError(told)
        return allowed

    def _allowed(self, offer: Offer) -> Offer:
        """The offer without the candidates that `max_relative_error` bars."""
        if offer.given:
            return replace(offer, candidates=[offer.given.candidate])
        if self.max_relative_error is None:
            return offer
        limit = self.max_relative_error**2
        return replace(
            offer,
            candidates=[c for c in offer.candidates if offer.worst_squared(c) <= limit],
        )

    def _error(self, offer: Offer, candidate: Candidate) -> float:
        if self.error_scale == "absolute":
            return offer.weighed(candidate)
        return offer.relative_squared(candidate)

    def _choice(self, offer: Offer, candidate: Candidate) -> Choice:
        if offer.settled:
            return offer.settled
        if candidate.method != "dense":
            return Choice(candidate, f"share of the budget {self.kept:g} of the {self.cost_unit}")
        return Choice(candidate, "dense: the budget allows it, and other layers save more cheaply")


def _round_up(fraction: float, step: float = 1e-3) -> str:
    return f"{math.ceil(fraction / step) * step:.3f}"
