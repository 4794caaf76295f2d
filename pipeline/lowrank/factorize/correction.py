"""Predictions corrected by measurement: what one kind of layer costs, alone, in the network.

The metric predicts the loss of each layer by a quadratic model, which is wrong in the same way in
all layers of a kind. So the layers of one kind are built, all others left dense, and their errors
count from then on as many times as they measured more than was predicted.

It is also local: a layer that loses far more than its neighbours costs more than it says. The
uniform plan, in which none does, is the best one where all losses fall alike with the cost and
count by the inverse of their size; so weights lead from the plan in nats to it."""

from __future__ import annotations

import copy
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.planning.plan import DENSE, Plan, PlannedLayer

_MOST = 8  # networks that are built and measured for one correction
_FARTHEST = 10.0  # a prediction is not trusted less than this many times too small or too large


def corrections(model: nn.Module, plan: Plan, divergence: Divergence) -> dict[str, float]:
    """{target: measured / predicted divergence of the layers of its kind}, 1 where nothing was
    predicted; {} where the plan predicts no nats or changes layers of one kind alone. The model is
    not changed."""
    kinds = _kinds(plan)
    predicted = {kind: _predicted(plan, names) for kind, names in kinds.items()}
    told = {kind: loss for kind, loss in predicted.items() if loss > 0}
    if len(told) < 2:
        return {}
    found = dict.fromkeys(plan.layers, 1.0)
    for kind in steps(told, "corrections"):
        apart = divergence.of(_alone(model, plan, kinds[kind])) / told[kind]
        factor = min(max(apart, 1 / _FARTHEST), _FARTHEST)
        found.update(dict.fromkeys(kinds[kind], factor))
    return found


def evened(plan: Plan, share: float) -> dict[str, float]:
    """{target: how many times its errors count} so that, on a logarithmic scale, the best plan lies
    `share` of the way from `plan` to the uniform plan beside it; {} where that predicts no nats.

    The layers of an inner dimension count alike. Those of which the uniform plan predicts no loss
    count once.
    """
    assert plan.uniform is not None, "make_plan puts it there"
    by_macs, losses = plan.policy.cost_unit == "macs", {}
    for names in _together(plan).values():
        lost = _predicted(plan.uniform, names)
        layers = [plan.uniform.expected.layers[name] for name in names]
        cost = sum(one.dense_macs if by_macs else one.dense_params for one in layers)
        if lost > 0 and cost:
            losses.update(dict.fromkeys(names, math.log(lost / cost)))
    if not losses:
        return {}
    middle = statistics.fmean(losses.values())
    return {n: math.exp(share * (middle - losses.get(n, middle))) for n in plan.layers}


def corrected_loss(plan: Plan, factors: Mapping[str, float]) -> float | None:
    """The predicted loss of a plan, each layer's counted so many times; None without factors."""
    if not factors:
        return None
    return sum(factors[name] * _predicted(plan, [name]) for name in plan.layers)


def _kinds(plan: Plan) -> dict[str, list[str]]:
    """{kind: its targets}: those whose names differ in numbers alone, and those of an inner
    dimension together. Where few layers change, each is a kind; of many kinds those with the
    smallest predicted losses are one."""
    places = {name: place for place, names in _together(plan).items() for name in names}
    few = len({places[name] for name in plan.factorized}) <= _MOST
    kinds: dict[str, list[str]] = {}
    for name in plan.layers:
        place = places[name]
        kinds.setdefault(place if few else re.sub(r"\d+", "#", place), []).append(name)
    largest = sorted(kinds, key=lambda kind: -_predicted(plan, kinds[kind]))
    rest = [name for kind in largest[_MOST - 1 :] for name in kinds[kind]]
    return {kind: kinds[kind] for kind in largest[: _MOST - 1]} | ({"rest": rest} if rest else {})


def _together(plan: Plan) -> dict[str, list[str]]:
    """{place: its targets}: those of an inner dimension, or one by itself."""
    inner = plan.narrowing.found if plan.narrowing else {}
    dimensions = {member.layer: name for name, one in inner.items() for member in one.layers}
    found: dict[str, list[str]] = {}
    for name in plan.layers:
        found.setdefault(dimensions.get(name, name), []).append(name)
    return found


def _predicted(plan: Plan, names: list[str]) -> float:
    return sum(plan.expected.layers[name].loss_increase or 0.0 for name in names)


def _alone(model: nn.Module, plan: Plan, names: list[str]) -> nn.Module:
    """The network with these layers of the plan and all others dense."""
    kept = set(names)
    layers = {n: one if n in kept else PlannedLayer(DENSE, ()) for n, one in plan.layers.items()}
    return apply_(copy.deepcopy(model), replace(plan, layers=layers), certified=False).network
