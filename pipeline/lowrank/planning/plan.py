"""The plan: which method, at which ranks, for every target, and why.

That is the decision, with the methods' options and the seed. Everything else in a plan is what is
*expected* of it, and can be computed again (`planning.expected`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, get_method
from pipeline.lowrank.methods.candidate import ErrorKind
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.planning.policies import Policy
from pipeline.lowrank.typed import plain

DENSE = "dense"  # in place of a method: the layer stays as it is


@dataclass(frozen=True)
class PlannedLayer:
    """What becomes of one target; `method` is "dense" where it stays as it is."""

    method: str
    ranks: tuple[int, ...]
    why: str = ""

    def __post_init__(self) -> None:
        ranks = plain(self.ranks)
        if not isinstance(ranks, list | tuple) or any(type(rank) is not int for rank in ranks):
            raise LowRankError(
                f"ranks is {self.ranks!r}: give whole numbers, one for each rank of {self.method}"
            )
        object.__setattr__(self, "ranks", tuple(ranks))


@dataclass(frozen=True)
class ExpectedLayer:
    """What `method` at `ranks` makes of one target: costs with and without it, and the relative
    error in the plan's metric, which is exact, at most, or about this (`error_kind`). Under
    `fisher`, `loss_increase` is half the squared error: nats per unit."""

    method: str
    ranks: tuple[int, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    relative_error: float
    error_kind: ErrorKind
    loss_increase: float | None = None


@dataclass(frozen=True)
class Expected:
    """What a plan comes to: its layers, and the network without (`dense`) and with it."""

    layers: Mapping[str, ExpectedLayer]
    dense: Totals
    planned: Totals

    @property
    def loss_increase(self) -> float | None:
        """Sum over the layers, nats per unit; None but under `fisher`."""
        found = [layer.loss_increase for layer in self.layers.values()]
        return None if None in found else math.fsum(x for x in found if x is not None)


@dataclass(frozen=True)
class Contestant:
    """One plan of a contest (`factorize.contest`): how it spends the budget, what it then costs,
    the loss increase that the metric predicts (nats, `fisher` only) and the measured divergence
    from the dense network (in the task's unit)."""

    allocation: str
    params: int
    macs: int
    predicted_loss_increase: float | None
    measured_kl: float


@dataclass(frozen=True)
class Plan:
    """Decisions for all targets under one policy.

    metric, damping, seed: of the analysis. methods: by name, with their options; a method that a
    layer names and that is not given has its defaults. skipped: {layer: why it is no target}.
    optimality_gap: the fraction of the total error that a better allocation could save at most;
    None for policies that decide layer by layer. uniform: the plan of the same cost that keeps the
    same fraction of every layer. contest: what was measured to choose this plan among several.
    analysis: what the plan was made from; it is not part of the file.
    """

    metric: MetricName
    seed: int
    policy: Policy
    methods: Mapping[str, Method]
    layers: Mapping[str, PlannedLayer]
    expected: Expected
    damping: float | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    optimality_gap: float | None = None
    uniform: Plan | None = None
    contest: tuple[Contestant, ...] = ()
    analysis: Analysis | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = {layer.method for layer in self.layers.values()} - {DENSE, *self.methods}
        if named:
            given = {**self.methods, **{name: get_method(name)() for name in sorted(named)}}
            object.__setattr__(self, "methods", given)

    def __repr__(self) -> str:
        dense, planned = self.expected.dense, self.expected.planned
        return (
            f"Plan({self.policy.name}, {len(self.factorized)} of {len(self.layers)} layers, "
            f"{dense.params:,} → {planned.params:,} params)"
        )

    @property
    def factorized(self) -> dict[str, PlannedLayer]:
        return {n: layer for n, layer in self.layers.items() if layer.method != DENSE}

    def with_layers(self, **changes: PlannedLayer) -> Plan:
        """The plan with other decisions for some layers, as an edit of its file makes them; what
        is expected stays as it was, until the plan is applied or checked."""
        return replace(self, layers={**self.layers, **changes})

    def __str__(self) -> str:
        from pipeline.lowrank.planning.tables import plan_table

        return plan_table(self).text()

    def _repr_html_(self) -> str:
        from pipeline.lowrank.planning.tables import plan_table

        return plan_table(self).html()
