"""Plans whose latency is what they promise: the network is built and measured beside the dense one,
and where it takes another time than its layers do alone, or is faster in another memory format, the
plan is made again with that known."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.planning.making import dense_instead
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.planning.policies.base import OutOfReachError
from pipeline.lowrank.planning.timing.clock import Clock
from pipeline.lowrank.planning.timing.expected import ExpectedLatency

_ROUNDS = 3
_CLOSE, _BEARABLE = 0.05, 0.1  # of the time that is expected
_FASTER = 0.95  # of the time: a memory format that is worth planning in
_NARROWEST, _WIDEST = 0.5, 3.0  # what a layer takes in the network, relative to alone
_NOTHING = "dense: no network of this budget was faster than the dense one on this device"


def hold_latency(
    model: nn.Module, analysis: Analysis, clock: Clock, decide: Callable[[Clock], Plan]
) -> Plan:
    """The plan of `decide`, with its latency measured; the plan that leaves all layers dense where
    the network would be no faster.

    clock: of the memory format in which the dense network is the fastest. Narrow layers may be
        faster in another one, and are planned in it then, or where no plan can be had else.
    decide: makes the plan with what a clock knows now.

    The model is not changed. Raises what `decide` raises.
    """
    plans: list[Plan] = []
    failures: list[OutOfReachError] = []
    for layout in sorted(clock.network.nanoseconds, key=lambda name: name != clock.layout):
        one = clock
        if layout != clock.layout:
            one = Clock(model, analysis.targets, clock.workload, clock.batch, layout)
        try:
            plans, is_last = _measured_plans(model, analysis, one, decide)
        except OutOfReachError as error:
            failures.append(error)
            continue
        if is_last:
            break
    if not plans:
        raise min(failures, key=lambda error: error.least)
    if not plans[0].factorized:
        return plans[0]
    faster = [plan for plan in plans if _took(plan) < clock.total_ms]
    if faster:
        return min(faster, key=_apart)
    return dense_instead(analysis, plans[0], clock, _NOTHING)


def _measured_plans(
    model: nn.Module, analysis: Analysis, clock: Clock, decide: Callable[[Clock], Plan]
) -> tuple[list[Plan], bool]:
    """(plans of `decide`, each made with what was measured of those before it; whether this memory
    format is the one to plan in: where the first of them is faster in another, no more are made).

    A first plan that factorizes nothing is the only one, and has no measured time.
    """
    plans: list[Plan] = []
    for _ in range(_ROUNDS):
        try:
            plan = decide(clock)
        except OutOfReachError:
            if plans and _apart(min(plans, key=_apart)) <= _BEARABLE:
                break  # as good as what was promised, and no better can be had
            raise
        assert plan.expected.latency is not None, "the clock timed it"
        if not plan.factorized:
            return [plan], True
        times = _measured(model, analysis, clock, plan)
        measured = times[clock.layout]
        latency = replace(plan.expected.latency, measured=measured)
        plan = replace(plan, expected=replace(plan.expected, latency=latency))
        is_first = not plans and clock.layout == clock.fastest
        if is_first and min(times.values()) < _FASTER * measured:
            return [plan], False
        if plan.layers in [known.layers for known in plans]:
            break  # no other correction leads elsewhere
        plans.append(plan)
        if _apart(plan) <= _CLOSE:
            break
        clock.in_network = _in_network(clock, plan, latency, measured)
    return plans, True


def _apart(plan: Plan) -> float:
    """How far the measured time is from the expected one, relative to that."""
    assert plan.expected.latency is not None
    return abs(_took(plan) / plan.expected.latency.planned - 1.0)


def _took(plan: Plan) -> float:
    latency = plan.expected.latency
    assert latency is not None and latency.measured is not None
    return latency.measured


def _measured(model: nn.Module, analysis: Analysis, clock: Clock, plan: Plan) -> dict[str, float]:
    """{memory format: milliseconds of the network that this plan makes}: those of the dense one, as
    they were measured before, times the ratio of the two side by side."""

    def build() -> nn.Module:
        return apply_(copy.deepcopy(model), plan, analysis, certified=False).network

    decisions = {name: (layer.method, layer.ranks) for name, layer in plan.layers.items()}
    named = hashlib.sha256(json.dumps(decisions).encode()).hexdigest()[:16]
    shares = clock.side_by_side(named, model, build)
    return {layout: clock.total_ms * share for layout, share in shares.items()}


def _in_network(clock: Clock, plan: Plan, latency: ExpectedLatency, measured: float) -> float:
    """What changed layers took in the network that was measured, relative to alone; half of the way
    there, since another plan changes other layers."""
    changed = sum(time for name, time in latency.layers.items() if name in plan.factorized)
    took = measured - (latency.planned - changed)
    share = clock.in_network * math.sqrt(max(took, 0.0) / changed)
    return min(max(share, _NARROWEST), _WIDEST)
