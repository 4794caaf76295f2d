"""Rank-selection policies, and the one place that lists them."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.planning.policies.base import Choice, Offer, Policy, Selection
from pipeline.lowrank.planning.policies.budget import Budget
from pipeline.lowrank.planning.policies.fixed import Fixed
from pipeline.lowrank.planning.policies.local import Compute, Energy, Error
from pipeline.lowrank.planning.policies.loss import Loss
from pipeline.lowrank.planning.policies.statistical import EVBMF, OptimalThreshold

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (Energy, Error, Compute, EVBMF, OptimalThreshold, Fixed, Loss, Budget)
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
    "Offer",
    "OptimalThreshold",
    "Policy",
    "Selection",
    "check_policy",
    "get_policy",
]


def get_policy(name: str) -> type[Policy]:
    """The class of the policy `name`. Raises LowRankError with the nearest name if there is
    none."""
    if name in POLICIES:
        return POLICIES[name]
    raise LowRankError(f"unknown policy {name!r}: {suggest(name, POLICIES)}")


def check_policy(value: object) -> None:
    """Raises LowRankError for what is no policy."""
    if not isinstance(value, Policy):
        raise LowRankError(
            f"policy: {value!r} is no policy; give an object such as lr.Budget(params=0.4), or "
            f"make_policy(name, options) for a name of {', '.join(POLICIES)}"
        )


def make_policy(name: str, knobs: Mapping[str, object]) -> Policy:
    """The policy `name` with its options.

    knobs: options of this policy, and perhaps of others, which are ignored.

    Raises LowRankError for an unknown name, and for a value out of its range.
    """
    return get_policy(name).from_knobs(knobs)
