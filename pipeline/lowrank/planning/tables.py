"""The table that `print(plan)` shows."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.lowrank.analysis.tables import Table, ranks_text, skipped_note
from pipeline.lowrank.planning.plan import DENSE, Contestant, ExpectedLayer, Plan, PlannedLayer
from pipeline.lowrank.tasks.measure import percent

_SIGNS = {"exact": "", "upper_bound": "≤ ", "estimate": "≈ "}


def plan_table(plan: Plan) -> Table:
    """A table with a row for each target: method, ranks, parameters, the part that is kept, and the
    expected error."""
    in_nats = plan.metric == "fisher"
    columns = ["layer", "method", "ranks", "params", "kept", "error"]
    rows = [
        _row(name, layer, plan.expected.layers.get(name), in_nats)
        for name, layer in plan.layers.items()
    ]
    return Table(
        title=f"plan: {_policy(plan)}; errors in the metric {plan.metric}",
        columns=[*columns, "nats"] if in_nats else columns,
        rows=rows,
        notes=[
            _totals(plan),
            *_latency(plan),
            *_contest(plan),
            *_narrowing(plan),
            *skipped_note(plan.skipped),
        ],
    )


def _row(
    name: str, layer: PlannedLayer, expected: ExpectedLayer | None, in_nats: bool
) -> list[str]:
    row = [name or "(root)", layer.method, ranks_text(layer.ranks)]
    if expected is None or (expected.method, expected.ranks) != (layer.method, layer.ranks):
        return [*row, *["edited"] * (4 if in_nats else 3)]
    kept = f"{expected.params / expected.dense_params:.0%}"
    if layer.method == DENSE:
        return [*row, f"{expected.params:,}", kept, *[""] * (2 if in_nats else 1)]
    error = f"{_SIGNS[expected.error_kind]}{expected.relative_error:.3f}"
    lost = "" if expected.loss_increase is None else f"{expected.loss_increase:.4f}"
    nats = [lost] if in_nats else []
    return [*row, f"{expected.params:,}", kept, error, *nats]


def _policy(plan: Plan) -> str:
    given = {k: v for k, v in asdict(plan.policy).items() if v is not None}  # type: ignore[call-overload]
    return f"{plan.policy.name} ({', '.join(f'{k}={v}' for k, v in given.items())})"


def _totals(plan: Plan) -> str:
    dense, planned = plan.expected.dense, plan.expected.planned
    parts = [
        f"{getattr(dense, unit):,} → {getattr(planned, unit):,} {word} "
        f"({getattr(planned, unit) / max(getattr(dense, unit), 1):.0%})"
        for unit, word in (("params", "parameters"), ("macs", "MACs"))
    ]
    increase = plan.expected.loss_increase
    told = "" if increase is None else f"; predicted loss +{increase:.4f} nats"
    return f"network: {', '.join(parts)}{told}"


def _latency(plan: Plan) -> list[str]:
    return [str(plan.expected.latency)] if plan.expected.latency else []


def _narrowing(plan: Plan, most: int = 5) -> list[str]:
    """One line on the inner dimensions: how many there are, and why other channels are none."""
    if plan.narrowing is None:
        return []
    left = [f"{name} ({why})" for name, why in plan.narrowing.left.items()]
    shown = "; not those before " + ", ".join(left[:most]) if left else ""
    more = f" and {len(left) - most} more" if len(left) > most else ""
    count = len(plan.narrowing.found)
    return [f"inner dimensions that may be narrowed: {count}{shown}{more}"]


def _contest(plan: Plan) -> list[str]:
    if not plan.contest:
        return []
    entries = ", ".join(
        f"{entry.allocation} {entry.measured_divergence:.4g}{_agreement(entry)}"
        for entry in plan.contest
    )
    return [f"measured divergence from the dense network, the least is chosen: {entries}"]


def _agreement(entry: Contestant) -> str:
    return "" if entry.agreement is None else f" ({percent(entry.agreement)} same answers)"
