"""The plan: one candidate a target, as JSON that a person can read and edit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.lowrank.analysis import Analysis
from pipeline.lowrank.candidate import Cost, dense_candidate
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, candidates_of
from pipeline.lowrank.policies import Option, Policy, Selection, Totals
from pipeline.lowrank.policies.local import kept_fraction

_FORMAT = 1


@dataclass(frozen=True)
class PlannedLayer:
    """What becomes of one target; `method` is "dense" where it stays as it is."""

    method: str
    ranks: tuple[int, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    relative_error: float
    error_kind: str
    why: str


@dataclass(frozen=True)
class Plan:
    """Choices for all targets under one policy, with the uniform plan of the same cost beside.

    `optimality_gap`: the fraction of the total error that a better allocation could save at
    most; None for policies that decide layer by layer.
    """

    metric: str
    methods: tuple[str, ...]
    policy: Mapping[str, Any]
    dense: Totals
    planned: Totals
    layers: Mapping[str, PlannedLayer]
    optimality_gap: float | None = None
    uniform: Mapping[str, PlannedLayer] = field(default_factory=dict)
    uniform_planned: Totals | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def factorized(self) -> dict[str, PlannedLayer]:
        return {n: layer for n, layer in self.layers.items() if layer.method != "dense"}


def make_plan(
    analysis: Analysis,
    weights: Mapping[str, Tensor],
    policy: Policy,
    names: Sequence[str],
    methods: Mapping[str, Method],
) -> Plan:
    """Candidates of the methods `names` for every target, then the policy's choice.

    weights: {target: (out, in, *kernel)}; nothing is changed.
    """
    options = {}
    for name, target in analysis.targets.items():
        spectra = analysis.spectra[name]
        found = candidates_of(target, weights[name], spectra, names, methods)
        options[name] = Option(target, spectra.squared_norm, [dense_candidate(target), *found])
    selection = policy.select(options, analysis.totals)
    layers = _planned_layers(options, selection)
    planned = _sum_up(analysis.totals, layers)
    uniform = _planned_layers(options, _uniform(options, policy.cost, layers))
    return Plan(
        metric=analysis.metric,
        methods=tuple(names),
        policy={"name": policy.name, **asdict(policy)},  # type: ignore[call-overload]
        dense=analysis.totals,
        planned=planned,
        layers=layers,
        optimality_gap=selection.optimality_gap,
        uniform=uniform,
        uniform_planned=_sum_up(analysis.totals, uniform),
        skipped=analysis.skipped,
    )


def save_plan(path: Path, plan: Plan) -> None:
    value = {
        "format": _FORMAT,
        "metric": plan.metric,
        "methods": list(plan.methods),
        "policy": dict(plan.policy),
        "network": {"dense": asdict(plan.dense), "planned": asdict(plan.planned)},
        "optimality_gap": plan.optimality_gap,
        "layers": {name: asdict(layer) for name, layer in plan.layers.items()},
        "uniform": {
            "layers": {name: asdict(layer) for name, layer in plan.uniform.items()},
            "planned": asdict(plan.uniform_planned) if plan.uniform_planned else None,
        },
        "skipped": dict(plan.skipped),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def load_plan(path: Path) -> Plan:
    """Reads a plan, also one that a person edited. Raises LowRankError on a broken one."""
    try:
        value = json.loads(path.read_text())
        if value["format"] != _FORMAT:
            raise LowRankError(f"{path}: format {value['format']}, this version reads {_FORMAT}")
        uniform = value["uniform"]
        return Plan(
            metric=value["metric"],
            methods=tuple(value["methods"]),
            policy=value["policy"],
            dense=Totals(**value["network"]["dense"]),
            planned=Totals(**value["network"]["planned"]),
            layers={n: _layer_from_json(layer) for n, layer in value["layers"].items()},
            optimality_gap=value["optimality_gap"],
            uniform={n: _layer_from_json(layer) for n, layer in uniform["layers"].items()},
            uniform_planned=Totals(**uniform["planned"]) if uniform["planned"] else None,
            skipped=value["skipped"],
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise LowRankError(f"{path}: not a plan ({error!r}); rerun rank-select") from error


def _layer_from_json(value: Mapping[str, Any]) -> PlannedLayer:
    return PlannedLayer(**{**value, "ranks": tuple(value["ranks"])})


def _planned_layers(options: Mapping[str, Option], selection: Selection) -> dict[str, PlannedLayer]:
    return {
        name: PlannedLayer(
            method=choice.candidate.method,
            ranks=choice.candidate.ranks,
            params=choice.candidate.params,
            macs=choice.candidate.macs,
            dense_params=options[name].target.params,
            dense_macs=options[name].target.macs,
            relative_error=math.sqrt(options[name].relative_squared(choice.candidate)),
            error_kind=choice.candidate.error_kind,
            why="; ".join(filter(None, [choice.why, choice.candidate.note])),
        )
        for name, choice in selection.choices.items()
    }


def _sum_up(totals: Totals, layers: Mapping[str, PlannedLayer]) -> Totals:
    return Totals(
        totals.params + sum(x.params - x.dense_params for x in layers.values()),
        totals.macs + sum(x.macs - x.dense_macs for x in layers.values()),
    )


def _uniform(
    options: Mapping[str, Option], unit: Cost, layers: Mapping[str, PlannedLayer]
) -> Selection:
    """The same kept fraction in every layer, the largest that costs no more than `layers`."""
    allowed = sum(x.params if unit == "params" else x.macs for x in layers.values())

    def at(fraction: float) -> tuple[Selection, int]:
        choices = {n: kept_fraction(o, unit, fraction) for n, o in options.items()}
        return Selection(choices), sum(c.candidate.cost(unit) for c in choices.values())

    low, high = 0.0, 1.0
    if at(high)[1] <= allowed:
        return at(high)[0]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[1] <= allowed else (low, middle)
    return at(low)[0]
