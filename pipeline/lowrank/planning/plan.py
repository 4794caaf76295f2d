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
from pipeline.lowrank.methods.interpolative import after_narrowing, is_narrower
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.skipped import Skipped
from pipeline.lowrank.planning.narrowing import NARROWED, Narrowing
from pipeline.lowrank.planning.policies import Policy
from pipeline.lowrank.planning.timing.expected import ExpectedLatency
from pipeline.lowrank.typed import plain

DENSE = "dense"  # stands in place of a method: the layer stays as it is


@dataclass(frozen=True)
class PlannedLayer:
    """The decision for one target.

    method: "dense" where the target stays as it is.
    ranks: in the order of the method; () for dense.
    why: the policy's reason, for people.
    """

    method: str
    ranks: tuple[int, ...]
    why: str = ""

    def __post_init__(self) -> None:
        ranks = plain(self.ranks)
        listed = ranks if isinstance(ranks, list | tuple) else [None]
        if any(type(rank) is not int or rank < 0 for rank in listed):
            raise LowRankError(
                f"ranks is {self.ranks!r}: give whole numbers, one for each rank of {self.method}"
            )
        object.__setattr__(self, "ranks", tuple(ranks))


@dataclass(frozen=True)
class ExpectedLayer:
    """What is expected of one target with `method` at `ranks`.

    params, macs, dense_params, dense_macs: costs with the plan and without it.
    relative_error: ‖W − Ŵ‖/‖W‖ in the plan's metric; exactly, at most or about this (`error_kind`).
    loss_increase: under `fisher`, half the squared error: nats per unit. Else None.
    """

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
    """What is expected of a plan: its layers, and the network's costs without it (`dense`) and with
    it (`planned`); its latency, where that is what the policy saves."""

    layers: Mapping[str, ExpectedLayer]
    dense: Totals
    planned: Totals
    latency: ExpectedLatency | None = None

    @property
    def loss_increase(self) -> float | None:
        """The sum over the layers, in nats per unit; None but under `fisher`."""
        found = [layer.loss_increase for layer in self.layers.values()]
        return None if None in found else math.fsum(x for x in found if x is not None)


@dataclass(frozen=True)
class Contestant:
    """One plan of a contest (`factorize.contest`).

    allocation: how the plan spends the budget.
    params, macs: costs of the network.
    predicted_loss_increase: what the metric predicts, in nats per unit; None but under `fisher`.
    measured_divergence: the measured divergence from the dense network, in the task's unit.
    agreement: the share of predictions whose answer is the dense network's; None where they are no
        categories, and in plans of older versions.
    corrected_loss_increase: the prediction with the layers of each kind counted as they measured
        alone (`factorize.correction`); None for plans that no correction chose.
    """

    allocation: str
    params: int
    macs: int
    predicted_loss_increase: float | None
    measured_divergence: float
    agreement: float | None = None
    corrected_loss_increase: float | None = None


@dataclass(frozen=True)
class Plan:
    """The decisions for all targets under one policy. They stand in policy, methods, layers,
    metric, damping and seed; the rest follows from them.

    metric, damping, seed: of the analysis.
    methods: {name: method with its options}; a method that a layer names and that is missing here
        has its defaults.
    layers: {target: the decision}.
    expected: costs and errors, which are computed again when the plan is applied.
    skipped: {layer or parameter: why it is no target}, the largest first.
    optimality_gap: the fraction of the total error that a better allocation could save at most;
        None for policies that decide layer by layer.
    uniform: the plan of the same cost that keeps the same fraction of every layer.
    contest: the plans that were measured to choose this one.
    narrowing: the inner dimensions, where the method `Interpolative` took part.
    analysis: what the plan was made from; it is not part of the file.
    """

    metric: MetricName
    seed: int
    policy: Policy
    methods: Mapping[str, Method]
    layers: Mapping[str, PlannedLayer]
    expected: Expected
    damping: float | None = None
    skipped: Mapping[str, Skipped] = field(default_factory=dict)
    optimality_gap: float | None = None
    uniform: Plan | None = None
    contest: tuple[Contestant, ...] = ()
    narrowing: Narrowing | None = None
    analysis: Analysis | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        single = {after_narrowing(m) or m for m in {one.method for one in self.layers.values()}}
        named = single - {DENSE, NARROWED, *self.methods}
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
        """{target: decision} of the targets that do not stay dense."""
        return {n: layer for n, layer in self.layers.items() if layer.method != DENSE}

    @property
    def widths(self) -> dict[str, int]:
        """{inner dimension: its width} of those that are narrowed. Raises LowRankError where the
        layers of one say different things, and for a layer that is in none."""
        said = {name: (layer.method, layer.ranks) for name, layer in self.layers.items()}
        found = self.narrowing.widths(said) if self.narrowing else {}
        inside = {
            member.layer
            for name in found
            if self.narrowing
            for member in self.narrowing.found[name].layers
        }
        outside = [n for n, (method, _) in said.items() if is_narrower(method) and n not in inside]
        if outside:
            raise LowRankError(
                f"layer {outside[0]!r} says {NARROWED}, and the plan has no inner dimension that "
                "it is in: choose another method for it"
            )
        return found

    def with_layers(self, **changes: PlannedLayer) -> Plan:
        """The plan with other decisions for some layers, as an edit of its file makes them. What is
        expected stays as it was, until the plan is applied or checked."""
        return replace(self, layers={**self.layers, **changes})

    def __str__(self) -> str:
        from pipeline.lowrank.planning.tables import plan_table

        return plan_table(self).text()

    def _repr_html_(self) -> str:
        from pipeline.lowrank.planning.tables import plan_table

        return plan_table(self).html()
