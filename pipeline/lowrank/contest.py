"""Plans chosen by measurement: a few plans of the same budget are built from the stored bases, and
the one whose predictions stay closest to the dense network's wins (what the quadratic model
predicts is local; what is measured is not)."""

from __future__ import annotations

import copy
import time
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
    unit; None where time was up)."""

    allocation: str
    params: int
    macs: int
    predicted_loss_increase: float | None
    measured_kl: float | None


def hold_contest(
    model: nn.Module,
    plans: Sequence[Plan],
    divergence: Divergence,
    *,
    seconds: float,
    options: Mapping[str, Any],
) -> Plan:
    """The plan with the least measured divergence, with the whole contest in `plan.contest`.

    plans: of one budget, under a policy `budget`. The uniform plan beside the first one takes
    part and is measured second, so that the winner never loses to it. After `seconds` no further
    plan is measured (the first two always are). The model is not changed. options: of the
    methods.
    """
    started = time.monotonic()
    first, *others = [(plan, str(plan.policy["error_scale"])) for plan in plans]
    entries: list[Entry] = []
    best: tuple[float, Plan] | None = None
    for plan, allocation in (first, (first[0].as_uniform(), "uniform"), *others):
        measured = None
        if len(entries) < 2 or time.monotonic() - started < seconds:
            built, _ = apply_(copy.deepcopy(model), plan, **options)
            measured = divergence.of(built)
            if best is None or measured < best[0]:
                best = measured, plan
        totals, predicted = plan.planned, plan.predicted_loss_increase
        entries.append(Entry(allocation, totals.params, totals.macs, predicted, measured))
    assert best is not None
    return replace(best[1], contest=tuple(asdict(entry) for entry in entries))
