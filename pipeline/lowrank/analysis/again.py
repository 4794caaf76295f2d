"""Networks that have factorized layers already. Such a layer is analyzed as the dense layer that
its factors multiply out to, so that errors are those of the product; it costs what it costs as it
is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import nn

from pipeline.lowrank.analysis.survey import Survey
from pipeline.lowrank.network.costs import layer_macs, totals_at, trace
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.skipped import skipped_weights
from pipeline.lowrank.network.targets import Costs


def at_present_costs(found: Survey, model: nn.Module, factorized: Collection[str]) -> Survey:
    """The survey of a network whose layers `factorized` were multiplied out, with the costs that
    `model` has, in which they are not."""
    if not factorized:
        return found
    with opened(model):
        seen = trace(model, found.example)
        macs = layer_macs(model, seen.positions, seen.read)
        reasons = {name: one.reason for name, one in found.skipped.items()}
        skipped = skipped_weights(model, found.targets.keys(), reasons)
    targets = {
        name: replace(
            target,
            note="errors are those of its factors' product",
            present=Costs(
                params=sum(p.numel() for p in model.get_submodule(name).parameters()),
                macs=sum(count for inner, count in macs.items() if _is_in(inner, name)),
            ),
        )
        if name in factorized
        else target
        for name, target in found.targets.items()
    }
    totals = totals_at(model, seen.positions, seen.read)
    return replace(found, targets=targets, skipped=skipped, totals=totals)


def _is_in(name: str, layer: str) -> bool:
    return not layer or name.startswith(f"{layer}.")
