"""Bounds against what was measured: the errors of the weights, of the layers' outputs, and of the
network's."""

from __future__ import annotations

import math

from pipeline.lowrank.analysis.tables import number_text
from pipeline.reporting.page.axis import Axis, decades, make_axis
from pipeline.reporting.page.table import Cell, Column, Dot, Row, Strip, Table, name_cell
from pipeline.reporting.run.plot_rows import bound_rows, error_rows, network_bound_rows
from pipeline.reporting.run.rows import BoundRow, ErrorRow
from pipeline.reporting.run.story import Story

_FIGURES = {
    "measured": "measured, the largest",
    "certificate": "certificate, the largest",
    "worst_case": "worst case",
    "printed_formula": "formula as printed in the course",
}


def errors_table(story: Story) -> Table | None:
    """Relative errors of the factorized weights within their bounds; None without any."""
    rows = error_rows(story.facts)
    if not rows:
        return None
    outputs = {row.layer: row for row in bound_rows(story.facts)}
    most = math.ceil(10 * max(max(row.upper, row.measured) for row in rows)) / 10
    axis = make_axis("", [], number_text, within=(0.0, most or 1.0))
    columns = [
        Column("layer"),
        Column("error", number=True),
        Column(f"0 … {number_text(most)}"),
        Column("lower", number=True),
        Column("upper", number=True),
        Column("by"),
    ]
    columns += [Column("output error", number=True), Column("bound", number=True)]
    return Table(
        "errors of the layers and their bounds",
        columns,
        [Row([*_weight(row, axis), *_output(outputs.get(row.layer))]) for row in rows],
    )


def network_table(story: Story) -> Table:
    """The error at the network's output: measured and bounded."""
    rows = network_bound_rows(story.facts)
    axis = decades([row.value for row in rows])
    columns = [
        Column("error at the output"),
        Column("value", number=True),
        Column(f"{number_text(axis.low)} … {number_text(axis.high)}, logarithmic"),
        Column("certain for"),
    ]
    kinds = {"measured": "measured", "certificate": "bound", "worst_case": "bound"}
    return Table(
        "errors of the network and their bounds",
        columns,
        [
            Row(
                [
                    Cell(_FIGURES[row.figure]),
                    Cell(number_text(row.value)),
                    Cell("", graphic=_strip(axis, row.value, kinds.get(row.figure, "expected"))),
                    Cell(row.certifies, kind="wrapped"),
                ]
            )
            for row in rows
        ],
        sortable=False,
    )


def _strip(axis: Axis, value: float, kind: str) -> Strip:
    return Strip((Dot(axis.at(value) if value > 0 else 0.0, kind),))


def _weight(row: ErrorRow, axis: Axis) -> list[Cell]:
    dots = (Dot(axis.at(row.predicted), "expected"), Dot(axis.at(row.measured), "measured"))
    return [
        name_cell(row.layer),
        Cell(f"{row.measured:.4f}", row.measured),
        Cell("", row.measured, graphic=Strip(dots, axis.at(row.lower), axis.at(row.upper))),
        Cell(f"{row.lower:.4f}", row.lower),
        Cell(f"{row.upper:.4f}", row.upper),
        Cell(row.theorem, row.theorem),
    ]


def _output(row: BoundRow | None) -> list[Cell]:
    if row is None:
        return [Cell(""), Cell("")]
    return [Cell(number_text(row.measured), row.measured), Cell(number_text(row.bound), row.bound)]
