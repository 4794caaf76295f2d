"""Measuring targets, as many at a time as fit into memory: of their moments the metrics stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.lowrank.analysis.collecting import moments_by_block
from pipeline.lowrank.analysis.measurable import Measured, check_measurable
from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.analysis.spill import Spill
from pipeline.lowrank.analysis.survey import Survey
from pipeline.lowrank.network.calling import device_of, evenly
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.tasks import Task


def measure(
    model: nn.Module,
    found: Survey,
    calibration: Sequence[Any],
    chosen: AnalysisOptions,
    *,
    task: Task | None,
    seed: int,
    spill: Spill | None = None,
) -> dict[str, Measured]:
    """What the calibration batches say of each target in the metric of the options.

    spill: where it goes after the pass that collected its moments; a target that it has already is
        not collected again.
    """
    limit = round(chosen.memory_gib * 2**30)
    check_measurable(model, found.targets, limit)
    some, others = evenly(calibration, chosen.gradient_share)
    place = device_of(model)
    known: dict[str, Measured] = {}
    if spill is not None:
        taken_up = {name: spill.measured(name, place) for name in found.targets}
        known = {name: one for name, one in taken_up.items() if one is not None}
    missing = {name: m for name, m in found.modules.items() if name not in known}
    if not missing:
        return known
    # Its cache would hold the weights in bfloat16. Float64, in which metrics are made, stays as it
    # is.
    lower = torch.autocast(place.type, torch.bfloat16, enabled=chosen.bf16, cache_enabled=False)
    with lower:
        for moments in moments_by_block(
            model, some, missing, gradients=chosen.metric == "fisher",
            task=task, seed=seed, memory_limit=limit, further=others,
        ):  # fmt: skip
            for name in steps(list(moments), "metric"):
                target, summed = found.targets[name], moments.pop(name)
                one = Measured.of(target, summed, chosen.metric, chosen.damping)
                del summed
                known[name] = one if spill is None else spill.keep(name, one, place)
    return known
