"""Plans chosen by measurement: a few plans of the same budget are built from the stored bases, and
the one whose predictions stay closest to the dense network's wins (what the quadratic model
predicts is local; what is measured is not)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from pipeline.lowrank.compress import apply_
from pipeline.lowrank.divergence import Divergence
from pipeline.lowrank.planning import Plan


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
    entries: list[Entry] = []
    for plan, allocation in contestants:
        built, _ = apply_(copy.deepcopy(model), plan, **options)
        totals, predicted = plan.planned, plan.predicted_loss_increase
        measured = divergence.of(built)
        entries.append(Entry(allocation, totals.params, totals.macs, predicted, measured))
    best = min(range(len(entries)), key=lambda index: entries[index].measured_kl)
    contest = tuple(asdict(entry) for entry in entries)
    return replace(contestants[best][0], contest=contest)
