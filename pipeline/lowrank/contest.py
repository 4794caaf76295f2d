"""Plans chosen by measurement: a few plans of the same budget are built from the stored bases, and
the one whose predictions stay closest to the dense network's wins (what the quadratic model
predicts is local; what is measured is not)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import nn

from pipeline.lowrank.analysis import Analysis
from pipeline.lowrank.compress import apply_
from pipeline.lowrank.divergence import Divergence
from pipeline.lowrank.planning import Plan

Scale = Literal["absolute", "relative"]


@dataclass(frozen=True)
class Entry:
    """One plan of a contest: how its errors were weighed, what it costs, the loss increase that
    the metric predicts (nats, metric `fisher` only) and the measured KL to the dense network
    (nats per unit; None where time was up)."""

    damping: float | None
    allocation: str
    params: int
    macs: int
    predicted_loss_increase: float | None
    measured_kl: float | None


def hold_contest(
    model: nn.Module,
    analyses: Sequence[Analysis],
    plan_of: Callable[[Analysis, Scale], Plan],
    divergence: Divergence,
    *,
    seconds: float,
    options: Mapping[str, Any],
) -> Plan:
    """The plan with the least measured divergence, with the whole contest in `plan.contest`.

    Contestants: for each analysis (metric and damping) the plans that weigh errors as they are
    (nats under `fisher`) and relative to each layer, and for the first the uniform plan, so that
    the winner never loses to it. After `seconds` no further plan is measured (the first two
    always are); the model is not changed. options: of the methods.
    """
    started = time.monotonic()
    entries: list[Entry] = []
    best: tuple[float, Plan] | None = None
    for number, (analysis, allocation, plan) in enumerate(_contestants(analyses, plan_of)):
        measured = None
        if number < 2 or time.monotonic() - started < seconds:
            built, _ = apply_(copy.deepcopy(model), plan, analysis, **options)
            measured = divergence.of(built)
            if best is None or measured < best[0]:
                best = measured, plan
        entries.append(
            Entry(
                damping=analysis.damping,
                allocation=allocation,
                params=plan.planned.params,
                macs=plan.planned.macs,
                predicted_loss_increase=plan.predicted_loss_increase,
                measured_kl=measured,
            )
        )
    assert best is not None
    return replace(best[1], contest=tuple(asdict(entry) for entry in entries))


def _contestants(
    analyses: Sequence[Analysis], plan_of: Callable[[Analysis, Scale], Plan]
) -> list[tuple[Analysis, str, Plan]]:
    """Different plans only, the uniform one second (so that it is always measured)."""
    found: list[tuple[Analysis, str, Plan]] = []
    for analysis in analyses:
        scales: tuple[Scale, ...] = ("absolute", "relative")
        for scale in scales:
            plan = plan_of(analysis, scale)
            if all(plan.layers != other.layers for _, _, other in found):
                found.append((analysis, scale, plan))
            if len(found) == 1:
                found.append((analysis, "uniform", plan.as_uniform()))
    return found
