"""The plan: one candidate a target, as JSON that a person can read and edit."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method
from pipeline.lowrank.network.costs import Cost, Totals
from pipeline.lowrank.planning.choices import make_options
from pipeline.lowrank.planning.overrides import Override
from pipeline.lowrank.planning.policies import Option, Policy, Selection
from pipeline.lowrank.planning.policies.local import kept_fraction

_FORMAT = 1


@dataclass(frozen=True)
class PlannedLayer:
    """What becomes of one target; `method` is "dense" where it stays as it is. Errors are in the
    plan's metric; under `fisher`, `loss_increase` is half the squared error: nats per unit."""

    method: str
    ranks: tuple[int, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    relative_error: float
    error_kind: str
    why: str
    loss_increase: float | None = None


@dataclass(frozen=True)
class Plan:
    """Choices for all targets under one policy, with the uniform plan of the same cost beside.

    `optimality_gap`: the fraction of the total error that a better allocation could save at
    most; None for policies that decide layer by layer. `contest`: what was measured to choose
    this plan among several of the same budget (`factorize.contest`). `analysis` is what the plan
    was made from; it is not part of the file.
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
    damping: float | None = None
    contest: tuple[Mapping[str, Any], ...] = ()
    analysis: Analysis | None = field(default=None, repr=False, compare=False)

    @property
    def predicted_loss_increase(self) -> float | None:
        """Sum over the layers, nats per unit; None but under `fisher`."""
        found = [layer.loss_increase for layer in self.layers.values()]
        return None if None in found else math.fsum(x for x in found if x is not None)

    def as_uniform(self) -> Plan:
        """The plan beside this one: the same kept fraction in every layer."""
        assert self.uniform_planned is not None
        return replace(self, layers=self.uniform, planned=self.uniform_planned, optimality_gap=None)

    @property
    def factorized(self) -> dict[str, PlannedLayer]:
        return {n: layer for n, layer in self.layers.items() if layer.method != "dense"}


def make_plan(
    analysis: Analysis,
    weights: Mapping[str, Tensor],
    policy: Policy,
    names: Sequence[str],
    methods: Mapping[str, Method],
    overrides: Mapping[str, Override] | None = None,
) -> Plan:
    """Candidates of the methods `names` for every target, then the policy's choice, but for
    the layers that an override decides.

    weights: {target: (out, in, *kernel)} in the analysis' metric; nothing is changed.
    """
    if policy.name == "loss" and analysis.metric != "fisher":
        raise LowRankError(
            f"the policy loss counts nats, which only the metric fisher predicts; the analysis is "
            f"in {analysis.metric!r}: choose analyze=fisher or another policy"
        )
    options = make_options(analysis, weights, names, methods, policy.cost, overrides)
    selection = policy.select(options, analysis.totals)
    beside = uniform(options, policy.cost, selection)
    return Plan(
        metric=analysis.metric,
        methods=tuple(names),
        policy={"name": policy.name, **asdict(policy)},  # type: ignore[call-overload]
        dense=analysis.totals,
        planned=_sum_up(analysis.totals, options, selection),
        layers=_planned_layers(analysis, options, selection),
        optimality_gap=selection.optimality_gap,
        uniform=_planned_layers(analysis, options, beside),
        uniform_planned=_sum_up(analysis.totals, options, beside),
        skipped=analysis.skipped,
        damping=analysis.damping,
        analysis=analysis,
    )


def uniform(options: Mapping[str, Option], unit: Cost, chosen: Selection) -> Selection:
    """The same kept fraction in every layer, the largest that costs no more than `chosen`.

    Given choices stand in both.
    """
    free = {n: o for n, o in options.items() if not o.given}
    allowed = sum(options[n].cost(chosen.choices[n].candidate, unit) for n in free)
    costs = {n: [o.cost(c, unit) for c in o.front(unit)] for n, o in free.items()}
    dense = {n: o.cost(o.dense, unit) for n, o in free.items()}

    def spent(fraction: float) -> int:
        return sum(
            own[max(bisect_right(own, fraction * dense[name]) - 1, 0)]
            for name, own in costs.items()
        )

    low, high = 0.0, 1.0
    if spent(high) <= allowed:
        low = high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) <= allowed else (low, middle)
    return Selection({n: o.settled or kept_fraction(o, unit, low) for n, o in options.items()})


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
        "damping": plan.damping,
        "predicted_loss_increase": plan.predicted_loss_increase,
        "contest": list(plan.contest),
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
            damping=value["damping"],
            contest=tuple(value["contest"]),
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise LowRankError(f"{path}: not a plan ({error!r}); rerun rank-select") from error


def _layer_from_json(value: Mapping[str, Any]) -> PlannedLayer:
    return PlannedLayer(**{**value, "ranks": tuple(value["ranks"])})


def _planned_layers(
    analysis: Analysis, options: Mapping[str, Option], selection: Selection
) -> dict[str, PlannedLayer]:
    in_nats = analysis.metric == "fisher"
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
            loss_increase=choice.candidate.squared_error / 2 if in_nats else None,
        )
        for name, choice in selection.choices.items()
    }


def _sum_up(totals: Totals, options: Mapping[str, Option], selection: Selection) -> Totals:
    """The network's costs with the selection in the place of the dense targets."""
    chosen = [(options[name], choice.candidate) for name, choice in selection.choices.items()]
    return Totals(
        **{
            unit: totals.cost(unit)
            + sum(o.cost(c, unit) - o.cost(o.dense, unit) for o, c in chosen)
            for unit in get_args(Cost)
        }
    )
