"""One budget for the whole network: min Σ error subject to Σ cost ≤ budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, NamedTuple

from pipeline.lowrank.candidate import Candidate, Cost, pareto_front
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.policies.base import Choice, Option, Policy, Selection, Totals

Scope = Literal["network", "targets"]
ErrorScale = Literal["relative", "absolute"]


class Step(NamedTuple):
    """One edge of a layer's lower convex hull: spend `cost`, save `gain` of error."""

    efficiency: float
    target: str
    to: Candidate
    cost: int
    gain: float


@dataclass(frozen=True)
class Budget(Policy):
    """Keep at most this fraction of the parameters or of the MACs (exactly one of the two).

    The fraction is of the whole network (`scope="network"`: everything that is not a target
    counts as spent) or of the targets alone (`scope="targets"`). Errors are weighed relative to
    each layer's ‖W‖² (raw Frobenius errors of different layers are not comparable) or as they
    are. Per layer the lower convex hull of (cost, error) is walked in order of error saved per
    cost, over all layers at once (Lagrangian relaxation); what is left of the budget is then
    spent on single exchanges. The linear-programming bound gives the optimality gap.
    A budget is never exceeded.
    """

    params: float | None = None
    macs: float | None = None
    scope: Scope = "network"
    error_scale: ErrorScale = "relative"

    name: ClassVar[str] = "budget"

    def __post_init__(self) -> None:
        if (self.params is None) == (self.macs is None):
            raise LowRankError("give the budget either as params or as macs, one of the two")
        if not 0.0 < self.kept <= 1.0:
            raise LowRankError(f"budget is {self.kept}: choose a kept fraction in (0, 1]")
        if self.scope not in ("network", "targets"):
            raise LowRankError(f"scope is {self.scope!r}: choose 'network' or 'targets'")
        if self.error_scale not in ("relative", "absolute"):
            raise LowRankError(
                f"error_scale is {self.error_scale!r}: choose 'relative' or 'absolute'"
            )

    @property
    def cost(self) -> Cost:
        return "params" if self.params is not None else "macs"

    @property
    def kept(self) -> float:
        kept = self.params if self.params is not None else self.macs
        assert kept is not None
        return kept

    def allowance(self, options: Mapping[str, Option], totals: Totals) -> int:
        """What the targets may cost together. Raises LowRankError below the smallest possible."""
        unit = self.cost
        dense = sum(option.dense.cost(unit) for option in options.values())
        fixed = totals.cost(unit) - dense if self.scope == "network" else 0
        whole = fixed + dense
        # The fraction as it was written: 0.7 of 10 is 7, not the float product's 6.99….
        allowed = math.floor(Fraction(repr(self.kept)) * whole) - fixed
        floor = sum(min(c.cost(unit) for c in option.candidates) for option in options.values())
        if allowed < floor:
            least = (fixed + floor) / whole
            raise LowRankError(
                f"a budget of {self.kept:g} of the {unit} cannot be met: with every target at its "
                f"smallest rank the {self.scope} keeps {least:.4f}; choose at least "
                f"{_round_up(least)}, or factorize more layers"
            )
        return allowed

    def select(self, options: Mapping[str, Option], totals: Totals) -> Selection:
        allowed = self.allowance(options, totals)
        fronts = {n: pareto_front(o.candidates, self.cost) for n, o in options.items()}
        chosen = {name: front[0] for name, front in fronts.items()}
        left = allowed - sum(c.cost(self.cost) for c in chosen.values())
        steps = [s for n, front in fronts.items() for s in self._hull_steps(options[n], front)]
        bound = sum(self._error(options[n], c) for n, c in chosen.items())
        stuck: set[str] = set()
        fractional = False
        for step in sorted(steps, key=lambda s: -s.efficiency):
            if not fractional:
                share = min(1.0, left / step.cost)
                bound -= share * step.gain
                fractional = share < 1.0
            if step.target in stuck:
                continue
            if step.cost <= left:
                chosen[step.target] = step.to
                left -= step.cost
            else:
                stuck.add(step.target)
        self._spend_rest(options, fronts, chosen, left)
        total = sum(self._error(options[n], c) for n, c in chosen.items())
        gap = max(0.0, (total - bound) / total) if total > 0 else 0.0
        return Selection({n: self._choice(options[n], c) for n, c in chosen.items()}, gap)

    def _error(self, option: Option, candidate: Candidate) -> float:
        if self.error_scale == "absolute":
            return candidate.squared_error
        return option.relative_squared(candidate)

    def _hull_steps(self, option: Option, front: list[Candidate]) -> list[Step]:
        """Edges of the lower convex hull of a Pareto front, steepest first."""
        hull: list[Step] = []
        corners = [front[0]]
        for candidate in front[1:]:
            step = self._step(option, corners[-1], candidate)
            while hull and step.efficiency >= hull[-1].efficiency:
                hull.pop()
                corners.pop()
                step = self._step(option, corners[-1], candidate)
            hull.append(step)
            corners.append(candidate)
        return hull

    def _step(self, option: Option, start: Candidate, end: Candidate) -> Step:
        cost = end.cost(self.cost) - start.cost(self.cost)
        gain = self._error(option, start) - self._error(option, end)
        return Step(gain / cost, option.target.name, end, cost, gain)

    def _spend_rest(
        self,
        options: Mapping[str, Option],
        fronts: Mapping[str, list[Candidate]],
        chosen: dict[str, Candidate],
        left: int,
    ) -> None:
        """Single exchanges, best saving first, until none fits what is left of the budget."""
        while True:
            exchanges = [
                (self._error(options[n], chosen[n]) - self._error(options[n], c), n, c)
                for n, front in fronts.items()
                for c in front
                if 0 < c.cost(self.cost) - chosen[n].cost(self.cost) <= left
            ]
            if not exchanges:
                return
            _, name, candidate = max(exchanges, key=lambda e: e[0])
            left -= candidate.cost(self.cost) - chosen[name].cost(self.cost)
            chosen[name] = candidate

    def _choice(self, option: Option, candidate: Candidate) -> Choice:
        if candidate.method != "dense":
            return Choice(candidate, f"share of the budget {self.kept:g} of the {self.cost}")
        if len(option.candidates) == 1:
            return Choice(candidate, "dense: no rank is below break-even")
        return Choice(candidate, "dense: the budget allows it, and other layers save more cheaply")


def _round_up(fraction: float, step: float = 1e-3) -> str:
    return f"{math.ceil(fraction / step) * step:.3f}"
