"""Predictions corrected by measurement: what one kind of layer costs, alone, in the network.

The metric predicts the loss of each layer by a quadratic model, which is wrong in the same way in
all layers of a kind. So the layers of one kind are built, all others left dense, and their errors
count from then on as many times as they measured more than was predicted."""

from __future__ import annotations

import copy
import re
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


def corrected_loss(plan: Plan, factors: Mapping[str, float]) -> float | None:
    """The predicted loss of a plan, each layer's counted so many times; None without factors."""
    if not factors:
        return None
    return sum(factors[name] * _predicted(plan, [name]) for name in plan.layers)


def _kinds(plan: Plan) -> dict[str, list[str]]:
    """{kind: its targets}: those whose names differ in numbers alone, and those of an inner
    dimension together. Where few layers change, each is a kind; of many kinds those with the
    smallest predicted losses are one."""
    inner = plan.narrowing.found if plan.narrowing else {}
    together = {member.layer: name for name, one in inner.items() for member in one.layers}
    places = {name: together.get(name, name) for name in plan.layers}
    few = len({places[name] for name in plan.factorized}) <= _MOST
    kinds: dict[str, list[str]] = {}
    for name, place in places.items():
        kinds.setdefault(place if few else re.sub(r"\d+", "#", place), []).append(name)
    largest = sorted(kinds, key=lambda kind: -_predicted(plan, kinds[kind]))
    rest = [name for kind in largest[_MOST - 1 :] for name in kinds[kind]]
    return {kind: kinds[kind] for kind in largest[: _MOST - 1]} | ({"rest": rest} if rest else {})


def _predicted(plan: Plan, names: list[str]) -> float:
    return sum(plan.expected.layers[name].loss_increase or 0.0 for name in names)


def _alone(model: nn.Module, plan: Plan, names: list[str]) -> nn.Module:
    """The network with these layers of the plan and all others dense."""
    kept = set(names)
    layers = {n: one if n in kept else PlannedLayer(DENSE, ()) for n, one in plan.layers.items()}
    return apply_(copy.deepcopy(model), replace(plan, layers=layers), certified=False).network
