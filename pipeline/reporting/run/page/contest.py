"""The contest: several plans of one budget, by what was predicted of them and what was measured."""

from __future__ import annotations

from pipeline.lowrank.analysis.tables import number_text
from pipeline.lowrank.planning.plan import Contestant, Plan
from pipeline.reporting.page.axis import Axis, decades
from pipeline.reporting.page.table import Cell, Column, Dot, Row, Strip, Table
from pipeline.reporting.words import human_count


def contest_table(plan: Plan) -> Table | None:
    """A line for each plan that was built and measured; None where there was no contest."""
    if not plan.contest:
        return None
    predicted = [c.predicted_loss_increase for c in plan.contest]
    known = [v for v in predicted if v is not None]
    axis = decades([*known, *(c.measured_divergence for c in plan.contest)])
    columns = [Column("plan"), Column("parameters", number=True), Column("MACs", number=True)]
    columns += [Column("predicted", number=True)] if known else []
    columns += [
        Column("measured", number=True),
        Column(f"{number_text(axis.low)} … {number_text(axis.high)}, logarithmic"),
    ]
    chosen = chosen_of(plan)
    rows = [
        _row(plan, entry, axis, chosen=entry is chosen, predicts=bool(known))
        for entry in plan.contest
    ]
    return Table("the contest", columns, rows, sortable=False)


def chosen_of(plan: Plan) -> Contestant | None:
    """The entry that is the plan; None where the plan was edited since."""
    planned = (
        plan.expected.planned.params,
        plan.expected.planned.macs,
        plan.expected.loss_increase,
    )
    found = [c for c in plan.contest if (c.params, c.macs, c.predicted_loss_increase) == planned]
    return min(found, key=lambda c: c.measured_divergence, default=None)


def _row(plan: Plan, entry: Contestant, axis: Axis, *, chosen: bool, predicts: bool) -> Row:
    predicted, measured = entry.predicted_loss_increase, entry.measured_divergence
    dots = [] if predicted is None else [_dot(axis, predicted, "expected")]
    dots.append(_dot(axis, measured, "measured"))
    cells = [
        Cell(allocation_words(plan, entry.allocation), small="chosen" if chosen else ""),
        Cell(human_count(entry.params)),
        Cell(human_count(entry.macs)),
        *([Cell("" if predicted is None else number_text(predicted))] if predicts else []),
        Cell(number_text(measured)),
        Cell("", graphic=Strip(tuple(dots))),
    ]
    return Row(cells, chosen=chosen)


def _dot(axis: Axis, value: float, kind: str) -> Dot:
    return Dot(axis.at(value) if value > 0 else 0.0, kind)


def allocation_words(plan: Plan, allocation: str) -> str:
    """What a plan weighs, in words: "absolute, without factors" → "loss in nats, without
    factors"."""
    words = {
        "absolute": "errors in nats" if plan.metric == "fisher" else "errors as they are",
        "relative": "errors relative to each layer",
        "uniform": "the same fraction of every layer",
        # Neither keeps the same fraction of every layer.
        "half uniform, corrected": "errors weighed halfway to the uniform plan, corrected",
        "uniform, corrected": "errors weighed for the uniform plan, corrected",
    }
    first, comma, rest = allocation.partition(", ")
    return words.get(allocation, f"{words.get(first, first)}{comma}{rest}")
