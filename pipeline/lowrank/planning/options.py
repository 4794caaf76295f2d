"""The policy, and the options of all policies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods import make_method
from pipeline.lowrank.methods.options import with_options_of
from pipeline.lowrank.planning.overrides import make_overrides
from pipeline.lowrank.planning.policies import POLICIES, Budget, Policy, make_policy
from pipeline.lowrank.planning.timing.workload import Workload
from pipeline.lowrank.typed import knob, knob_names, options

CONTEST_EXAMPLES = 512  # held out from the statistics, on which plans are measured

# A plan from a file is named by its path, and pinned by its content.
_FILE = "file"


@options
@with_options_of(
    [Budget, *POLICIES.values(), Workload],
    without=("params", "macs", "bytes", "latency"),
)
class RankSelectOptions:
    """Which candidate each layer gets. Options of policies that are not chosen are checked too,
    since a slip in one is never meant."""

    policy: str = knob(help="the rule; each option of the group names one")
    budget: float = knob(default=0.2, gt=0, le=1, help="budget: fraction of the dense cost to keep")
    contest_examples: int = knob(
        default=CONTEST_EXAMPLES,
        ge=0,
        help="budget, loss: held-out calibration examples on which plans are measured, the one "
        "closest to the dense network wins; 0 measures none, error_scale decides",
    )
    path: str | None = knob(default=None, help="file: a plan.json, perhaps edited")
    sha256: str | None = knob(default=None, help="file: checksum of the plan; filled in")
    overrides: dict[str, dict[str, Any]] | None = knob(
        default=None,
        help="{pattern: {keep: dense} or {method: …, ranks: …}}: the first that matches a layer "
        "counts",
    )

    def __post_init__(self) -> None:
        if self.policy not in (*POLICIES, _FILE):
            known = suggest(self.policy, (*POLICIES, _FILE))
            raise LowRankError(f"unknown policy {self.policy!r}: {known}")
        if self.policy == _FILE and self.path is None:
            raise LowRankError("path is not set: give the plan.json")
        for name in POLICIES:
            make_policy(name, vars(self))
        make_overrides(self.overrides, partial(make_method, options={}))

    @property
    def plan(self) -> Path | None:
        """The plan.json that decides in place of a policy; None where a policy does."""
        return Path(self.path) if self.policy == _FILE and self.path else None

    def to_workload(self) -> Workload:
        """What is timed where the latency is a cost."""
        own = {name: vars(self)[name] for name in knob_names(Workload)}
        return Workload(**own)

    def to_policy(self) -> Policy:
        """The policy with those of the options that are its own."""
        return make_policy(self.policy, vars(self))
