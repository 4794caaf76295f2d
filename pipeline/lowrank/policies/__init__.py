"""Rank-selection policies, and the one place that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.policies.base import Choice, Option, Policy, Selection, Totals, check_cost
from pipeline.lowrank.policies.budget import Budget
from pipeline.lowrank.policies.local import Compute, Energy, Error

# Name in the configuration → policy, from the options of the section `rank_select`.
POLICIES: dict[str, Callable[[Mapping[str, Any]], Policy]] = {
    "energy": lambda o: Energy(o["energy"], o["cost"]),
    "error": lambda o: Error(o["relative_error"], o["cost"]),
    "compute": lambda o: Compute(o["compression_ratio"], o["cost"]),
    "budget": lambda o: _budget(**o),
}

__all__ = [
    "POLICIES",
    "Budget",
    "Choice",
    "Compute",
    "Energy",
    "Error",
    "Option",
    "Policy",
    "Selection",
    "Totals",
    "make_policy",
]


def _budget(*, budget: float, cost: str, scope: Any, error_scale: Any, **others: object) -> Budget:
    check_cost(cost)
    return Budget(**{cost: budget}, scope=scope, error_scale=error_scale)


def make_policy(options: Mapping[str, Any]) -> Policy:
    """The policy that `options["policy"]` names; LowRankError with the nearest name if none."""
    name = options["policy"]
    if name not in POLICIES:
        near = get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LowRankError(f"unknown policy {name!r}: {hint}known are {', '.join(POLICIES)}")
    return POLICIES[name](options)
