"""The weights themselves, which no metric changes: what stands out of noise, and what training did
to their spectra."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.lowrank.analysis.tables import number_text
from pipeline.reporting.names import largest
from pipeline.reporting.page.axis import Axis, decades, make_axis
from pipeline.reporting.page.plot import Line, Plot
from pipeline.reporting.page.table import Cell, Column, Dot, Row, Strip, Table, name_cell
from pipeline.reporting.run.page.spectra import Card
from pipeline.reporting.run.rows import TrainingRow, WeightRow
from pipeline.reporting.run.spectral import (
    SpectralRow,
    spectral_rows,
    training_rows,
    weight_rows,
)
from pipeline.reporting.run.story import Story

MOST = 6  # layers that are drawn
_LOWEST = 1e-3  # of the edge: what is below is rounding


def weights_cards(story: Story) -> list[Card]:
    """The layers with the most energy in spikes, of those whose noise has a fit: singular values
    over the edge of the noise, before and after training."""
    table = {row.name: row for row in spectral_rows(story.facts)}
    rows: dict[str, list[WeightRow]] = {}
    for row in weight_rows(story.facts):
        if row.edge is not None:
            rows.setdefault(row.layer, []).append(row)
    held = {name: table[name].spike_energy or 0.0 for name in rows}
    cards = []
    for name in largest(list(rows), held, MOST):
        spikes = table[name].spikes or 0
        told = f"{spikes or 'no'} spike{'' if spikes == 1 else 's'}"
        cards.append(Card(name or "(root)", told, [_plot(rows[name], spikes)]))
    return cards


def training_table(story: Story) -> Table | None:
    """A line for each layer: how its singular values grew, and how its effective rank moved; None
    where the initial weights are not known."""
    course: dict[str, list[TrainingRow]] = {}
    for row in training_rows(story.facts):
        course.setdefault(row.layer, []).append(row)
    if not course:
        return None
    rows = spectral_rows(story.facts)
    axis = decades([r for row in rows for r in _ratios(row) if r])
    ranks = [r.relative_rank for track in course.values() for r in track if r.relative_rank]
    rank_axis = make_axis("", ranks, number_text)
    columns = [
        Column("layer"),
        Column("all", number=True),
        Column("leading", number=True),
        Column("trailing", number=True),
        Column(f"{number_text(axis.low)} … {number_text(axis.high)}, logarithmic"),
        Column("effective rank", number=True),
        Column(f"{_percent(rank_axis.low)} … {_percent(rank_axis.high)} of the initial one"),
    ]
    return Table(
        "what training did to the spectra",
        columns,
        [_course(row, course.get(row.name, []), axis, rank_axis) for row in rows],
    )


def _plot(rows: Sequence[WeightRow], spikes: int) -> Plot:
    edge = rows[0].edge or 1.0
    lines = {}
    for state in ("initial", "trained"):
        lines[state] = [
            (row.index, row.singular_value / edge)
            for row in rows
            if row.state == state and row.singular_value > _LOWEST * edge
        ]
    above = [point for point in lines["trained"] if point[0] <= spikes]
    values = [y for points in lines.values() for _, y in points]
    drawn = [
        Line(lines["initial"], "initial"),
        Line([*above, *above[-1:]], "spikes"),
        Line(lines["trained"], "spectrum"),
    ]
    last = max(row.index for row in rows)
    return Plot(
        title="singular values over the edge of the noise",
        x=make_axis("", [], "{:g}".format, log=True, within=(0.9, max(last, 2) * 1.1)),
        y=make_axis("", [*values, 1.0], number_text, log=True),
        lines=[line for line in drawn if line.points],
        levels=[1.0],
        height=150,
        left=34,
        bottom=20,
    )


def _course(row: SpectralRow, track: Sequence[TrainingRow], axis: Axis, ranks: Axis) -> Row:
    kinds = ("bound", "measured", "late")
    dots = [Dot(axis.at(r), kind) for r, kind in zip(_ratios(row), kinds, strict=True) if r]
    moved = [r.relative_rank for r in track if r.relative_rank]
    steps = [Dot(ranks.at(rank), "early") for rank in moved[:-1]]
    steps += [Dot(ranks.at(rank), "measured") for rank in moved[-1:]]
    cells = [name_cell(row.name)]
    cells += [Cell("" if r is None else f"{r:.2f}×", r) for r in _ratios(row)]
    cells.append(Cell("", graphic=Strip(tuple(dots))))
    cells.append(Cell(f"{row.effective_rank:.1f}", row.effective_rank, small=_change(moved)))
    cells.append(Cell("", moved[-1] if moved else None, graphic=Strip(tuple(steps))))
    return Row(cells)


def _ratios(row: SpectralRow) -> tuple[float | None, float | None, float | None]:
    return row.norm_ratio, row.leading_ratio, row.trailing_ratio


def _change(moved: Sequence[float]) -> str:
    return _percent(moved[-1]) if moved else ""


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
