"""Plans whose latency is what they promise: the network is built and measured beside the dense one,
and where it takes another time than its layers do alone, the plan is made again with that known."""

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
_NARROWEST, _WIDEST = 0.5, 3.0  # what a layer takes in the network, relative to alone
_NOTHING = "dense: no network of this budget was faster than the dense one on this device"


def hold_latency(
    model: nn.Module, analysis: Analysis, clock: Clock, decide: Callable[[], Plan]
) -> Plan:
    """The plan of `decide`, with its latency measured; the plan that leaves all layers dense where
    the network would be no faster.

    decide: makes the plan with what the clock knows now.

    The model is not changed. Raises what `decide` raises.
    """
    plans: list[Plan] = []
    for _ in range(_ROUNDS):
        try:
            plan = decide()
        except OutOfReachError:
            if plans and _apart(min(plans, key=_apart)) <= _BEARABLE:
                break  # as good as what was promised, and no better can be had
            raise
        assert plan.expected.latency is not None, "the clock timed it"
        if not plan.factorized:
            return plan
        measured = _measured(model, analysis, clock, plan)
        latency = replace(plan.expected.latency, measured=measured)
        plan = replace(plan, expected=replace(plan.expected, latency=latency))
        if plan.layers in [known.layers for known in plans]:
            break  # no other correction leads elsewhere
        plans.append(plan)
        if _apart(plan) <= _CLOSE:
            break
        clock.in_network = _in_network(clock, plan, latency, measured)
    faster = [plan for plan in plans if _took(plan) < clock.total_ms]
    if faster:
        return min(faster, key=_apart)
    return dense_instead(analysis, plans[0], clock, _NOTHING)


def _apart(plan: Plan) -> float:
    """How far the measured time is from the expected one, relative to that."""
    assert plan.expected.latency is not None
    return abs(_took(plan) / plan.expected.latency.planned - 1.0)


def _took(plan: Plan) -> float:
    latency = plan.expected.latency
    assert latency is not None and latency.measured is not None
    return latency.measured


def _measured(model: nn.Module, analysis: Analysis, clock: Clock, plan: Plan) -> float:
    """Milliseconds of the network that this plan makes: those of the dense one, as they were
    measured before, times the ratio of the two side by side."""

    def build() -> nn.Module:
        network = apply_(copy.deepcopy(model), plan, analysis, certified=False).network
        return clock.laid_out(network)

    decisions = {name: (layer.method, layer.ranks) for name, layer in plan.layers.items()}
    named = hashlib.sha256(json.dumps(decisions).encode()).hexdigest()[:16]
    return clock.total_ms * clock.side_by_side(named, clock.laid_out(model), build)


def _in_network(clock: Clock, plan: Plan, latency: ExpectedLatency, measured: float) -> float:
    """What changed layers took in the network that was measured, relative to alone; half of the way
    there, since another plan changes other layers."""
    changed = sum(time for name, time in latency.layers.items() if name in plan.factorized)
    took = measured - (latency.planned - changed)
    share = clock.in_network * math.sqrt(max(took, 0.0) / changed)
    return min(max(share, _NARROWEST), _WIDEST)
