"""Plans chosen by measurement: a few plans of the same budget are built from the stored bases, and
the one whose predictions stay closest to the dense network's wins (what the quadratic model
predicts is local; what is measured is not)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.planning.plan import Plan


@dataclass(frozen=True)
class Entry:
    """One plan of a contest: how it spends the budget, what it then costs, the loss increase that
    the metric predicts (nats, `fisher` only) and the measured KL to the dense network (nats per
    unit)."""

    allocation: str
    params: int
    macs: int
    predicted_loss_increase: float | None
    measured_kl: float


def hold_contest(
    model: nn.Module,
    plans: Sequence[Plan],
    divergence: Divergence,
    *,
    options: Mapping[str, Any],
) -> Plan:
    """The plan with the least measured divergence, with the whole contest in `plan.contest`.

    plans: of one budget, under a policy `budget`. The uniform plan beside the first one takes
    part, so that the winner never loses to it; the first of equal ones wins. The model is not
    changed. options: of the methods.
    """
    contestants = [(plan, str(plan.policy["error_scale"])) for plan in plans]
    contestants.append((plans[0].as_uniform(), "uniform"))
    entries = [_measure(model, *one, divergence, options) for one in contestants]
    best = min(range(len(entries)), key=lambda index: entries[index].measured_kl)
    contest = tuple(asdict(entry) for entry in entries)
    return replace(contestants[best][0], contest=contest)


def hold_limit(
    model: nn.Module,
    plan_of: Callable[[float], Plan],
    divergence: Divergence,
    *,
    nats: float,
    options: Mapping[str, Any],
    rounds: int = 5,
) -> Plan:
    """The smallest plan whose *measured* divergence stays below `nats`, of `rounds` predictions.

    plan_of(predicted): the plan under a limit on the predicted increase. The prediction is local:
    each round corrects the limit by measured / predicted, from the side that was found wanting.
    Raises LowRankError when no round keeps the limit.
    """
    entries: list[Entry] = []
    best, below, above, limit = None, 0.0, math.inf, nats
    for _ in range(rounds):
        plan = plan_of(limit)
        entries.append(_measure(model, plan, f"≤ {limit:.4g} nats", divergence, options))
        measured = entries[-1].measured_kl
        if measured <= nats:
            best, below = plan, limit  # above all limits that were kept before
        else:
            above = limit
        wanted = limit * nats / measured if measured > 0 else math.inf
        limit = wanted if below < wanted < above else _between(below, above)
    if best is None:
        least = min(entry.measured_kl for entry in entries)
        raise LowRankError(
            f"no plan keeps a measured loss increase of {nats:g} nats (least found: {least:.4g}); "
            "raise rank_select.nats or the number of calibration examples"
        )
    return replace(best, contest=tuple(asdict(entry) for entry in entries))


def _between(below: float, above: float) -> float:
    """Inside the bracket, where one side may still be open (0, ∞)."""
    return 2 * below if above == math.inf else math.sqrt(max(below, above / 10) * above)


def _measure(
    model: nn.Module,
    plan: Plan,
    allocation: str,
    divergence: Divergence,
    options: Mapping[str, Any],
) -> Entry:
    """Builds the plan on a copy of the model and measures it."""
    built, _ = apply_(copy.deepcopy(model), plan, certified=False, **options)
    totals, predicted = plan.planned, plan.predicted_loss_increase
    return Entry(allocation, totals.params, totals.macs, predicted, divergence.of(built))
