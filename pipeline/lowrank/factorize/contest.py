"""Plans chosen by measurement: a few plans of the same budget are built from the stored bases, and
the plan whose predictions stay closest to the dense network's wins. The quadratic model predicts
only small changes; what is measured holds for large ones too."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import nn

from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.correction import corrected_loss, corrections, evened
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.planning.plan import Contestant, Plan
from pipeline.lowrank.planning.policies import Budget, Loss, Policy

# How far on the way to the uniform plan corrected ones lie, and how a contest calls them.
_EVENED = {0.0: "", 0.5: "half uniform", 1.0: "uniform"}


class PlanOf(Protocol):
    """Makes the plan of a policy. weights: {target: how many times its errors count}."""

    def __call__(self, policy: Policy, *, weights: Mapping[str, float] | None = None) -> Plan: ...


@dataclass(frozen=True)
class Rival:
    """A plan of a contest, the name that the contest has for it, and the corrections that chose
    it, of `correction.corrections`."""

    plan: Plan
    name: str
    factors: Mapping[str, float] = field(default_factory=dict)


def choose_plan(
    model: nn.Module,
    policy: Policy,
    plan_of: PlanOf,
    divergence: Callable[[], Divergence] | None,
    parts: Mapping[str, Callable[[Policy], Plan]] | None = None,
) -> Plan:
    """The plan of the policy; where several plans keep its promise, the one that measures best.

    plan_of: makes the plan of a policy.
    divergence: makes the measure of networks against the dense one, when it is first needed; None
        measures nothing, and the policy's own options decide.
    parts: {what is left out: makes the plan of a policy from a part of the candidates}; these take
        part in the contest of a budget, where they can keep it at all.
    """
    if divergence is None:
        return plan_of(policy)
    if isinstance(policy, Loss):
        return hold_limit(model, policy, plan_of, divergence())
    if isinstance(policy, Budget):
        measure = divergence()
        plans = [plan_of(one) for one in policy.rivals()]
        others = [
            Rival(plan, f"{_allocation(plan)}, {left_out}")
            for left_out, make in (parts or {}).items()
            for plan in _kept(make, policy.rivals())
        ]
        others += _corrected(model, plans[0], plan_of, measure)
        return hold_contest(model, plans, measure, others)
    return plan_of(policy)


def _corrected(
    model: nn.Module, plan: Plan, plan_of: PlanOf, divergence: Divergence
) -> list[Rival]:
    """The plan again, its predictions corrected by measurement, and on the way from it to the
    uniform plan; without those that came out before."""
    factors = corrections(model, plan, divergence)
    if not factors:
        return []
    known, found = [plan], []
    for share, name in _EVENED.items():
        even = evened(plan, share)
        weights = {n: factor * even.get(n, 1.0) for n, factor in factors.items()}
        other = plan_of(plan.policy, weights=weights)
        if not any(_same(other, one) for one in known):
            found.append(Rival(other, f"{name or _allocation(plan)}, corrected", factors))
        known.append(other)
    return found


def _same(one: Plan, other: Plan) -> bool:
    return all(
        (a.method, a.ranks) == (b.method, b.ranks)
        for a, b in zip(one.layers.values(), other.layers.values(), strict=True)
    )


def _kept(make: Callable[[Policy], Plan], policies: Sequence[Policy]) -> list[Plan]:
    """The plans of the policies; [] where these candidates cannot keep what is promised."""
    try:
        return [make(policy) for policy in policies]
    except LowRankError:
        return []


def hold_contest(
    model: nn.Module,
    plans: Sequence[Plan],
    divergence: Divergence,
    others: Sequence[Rival] = (),
) -> Plan:
    """The plan with the least measured divergence, with the whole contest in `plan.contest`.

    plans: of one budget, under a policy `Budget`. The uniform plan of the first one takes part, so
        that the winner is never worse than it; of equal plans the first wins. The model is not
        changed.
    others: further plans.
    """
    contestants = [*(Rival(plan, _allocation(plan)) for plan in plans), *others]
    beside = plans[0].uniform
    assert beside is not None, "make_plan puts it there"
    contestants.append(Rival(beside, "uniform"))
    entries = tuple(_measure(model, one, divergence) for one in steps(contestants, "contest"))
    best = min(range(len(entries)), key=lambda index: entries[index].measured_divergence)
    winner = contestants[best].plan
    return replace(winner, uniform=winner.uniform or beside, contest=entries)


def hold_limit(
    model: nn.Module,
    policy: Loss,
    plan_of: Callable[[Policy], Plan],
    divergence: Divergence,
    *,
    rounds: int = 5,
) -> Plan:
    """The smallest of `rounds` plans whose *measured* divergence stays below `policy.nats`.

    The predicted loss increase is a local figure, so each round corrects the limit that the policy
    is given by measured / predicted, and the next limit lies between the ones that were kept and
    the ones that were not. Raises LowRankError when no round keeps the limit.
    """
    nats = policy.nats
    entries: list[Contestant] = []
    best, below, above, limit = None, 0.0, math.inf, nats
    for _ in range(rounds):
        plan = plan_of(replace(policy, nats=limit))
        entries.append(_measure(model, Rival(plan, f"≤ {limit:.4g} nats"), divergence))
        measured = entries[-1].measured_divergence
        if measured <= nats:
            best, below = plan, limit  # above all limits that were kept before
        else:
            above = limit
        wanted = limit * nats / measured if measured > 0 else math.inf
        limit = wanted if below < wanted < above else _between(below, above)
    if best is None:
        least = min(entry.measured_divergence for entry in entries)
        raise LowRankError(
            f"no plan keeps a measured loss increase of {nats:g} nats (least found: {least:.4g}); "
            "raise rank_select.nats or the number of calibration examples"
        )
    return replace(best, contest=tuple(entries))


def _allocation(plan: Plan) -> str:
    policy = plan.policy
    return policy.error_scale if isinstance(policy, Budget) else policy.name


def _between(below: float, above: float) -> float:
    """A limit inside the bracket; an open side of it is 0 or ∞."""
    return 2 * below if above == math.inf else math.sqrt(max(below, above / 10) * above)


def _measure(model: nn.Module, rival: Rival, divergence: Divergence) -> Contestant:
    """Builds the plan on a copy of the model and measures it."""
    expected = rival.plan.expected
    apart = divergence.distance(apply_(copy.deepcopy(model), rival.plan, certified=False).network)
    return Contestant(
        allocation=rival.name,
        params=expected.planned.params,
        macs=expected.planned.macs,
        predicted_loss_increase=expected.loss_increase,
        measured_divergence=apart.divergence,
        agreement=apart.agreement,
        corrected_loss_increase=corrected_loss(rival.plan, rival.factors),
    )
