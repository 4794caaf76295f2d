"""Rank-selection policies, and the one place that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.planning.policies.base import Choice, Option, Policy, Selection, check_cost
from pipeline.lowrank.planning.policies.budget import Budget
from pipeline.lowrank.planning.policies.fixed import Fixed
from pipeline.lowrank.planning.policies.local import Compute, Energy, Error
from pipeline.lowrank.planning.policies.loss import Loss
from pipeline.lowrank.planning.policies.statistical import EVBMF, OptimalThreshold


def _budget(options: Mapping[str, Any]) -> Budget:
    check_cost(options["cost"])
    own = ("scope", "error_scale", "allocation", "max_relative_error")
    return Budget(**{options["cost"]: options["budget"]}, **{key: options[key] for key in own})


# Name in the configuration → policy, from the options of the section `rank_select`.
POLICIES: dict[str, Callable[[Mapping[str, Any]], Policy]] = {
    "energy": lambda o: Energy(o["energy"], o["cost"]),
    "error": lambda o: Error(o["relative_error"], o["cost"]),
    "compute": lambda o: Compute(o["compression_ratio"], o["cost"]),
    "evbmf": lambda o: EVBMF(o["cost"]),
    "optimal_threshold": lambda o: OptimalThreshold(o["cost"]),
    "fixed": lambda o: Fixed(o["ranks"], o["cost"]),
    "loss": lambda o: Loss(o["nats"], o["cost"]),
    "budget": _budget,
}

__all__ = [
    "EVBMF",
    "POLICIES",
    "Budget",
    "Choice",
    "Compute",
    "Energy",
    "Error",
    "Fixed",
    "Loss",
    "OptimalThreshold",
    "Option",
    "Policy",
    "Selection",
    "make_policy",
]


def make_policy(options: Mapping[str, Any]) -> Policy:
    """The policy that `options["policy"]` names; LowRankError with the nearest name if none."""
    name = options["policy"]
    if name not in POLICIES:
        raise LowRankError(f"unknown policy {name!r}: {suggest(name, POLICIES)}")
    return POLICIES[name](options)
