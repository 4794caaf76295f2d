"""How a run is called in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def run_name(
    params: Mapping[str, Any], methods: Sequence[str] = (), kept: float | None = None
) -> str:
    """A short name that tells runs apart: data, methods, policy, the part of the parameters that is
    kept, and what is trained afterwards.

    methods, kept: of the plan, each method once; none before there is one.
    """
    # No method is imported here: what trains names its run, and none of it needs a solver.
    words = [str(params["data"]["name"]), "+".join(methods), str(params["rank_select"]["policy"])]
    if kept is not None:
        words += [f"{kept:.1%} of params"]
    if params["refit"]["share"]:
        words += ["refit"]
    if params["refit"]["steps"]:
        words += ["blocks trained"]
    repair = params["fine_tune"]
    words += [f"fine_tune {repair['parameters']}"]
    if repair["parameters"] != "none" and repair["objective"] != "labels":
        words += [str(repair["objective"])]
    if params["seed"]:
        words += [f"seed {params['seed']}"]
    return " ".join(word for word in words if word)
