"""Spectra of the largest layers with the ranks that were chosen, and the inner dimensions with
their widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.lowrank.analysis.tables import ranks_text
from pipeline.lowrank.methods.interpolative import is_narrower
from pipeline.reporting.names import VIEWS, largest
from pipeline.reporting.page.axis import Axis, Tick, make_axis
from pipeline.reporting.page.plot import Line, Plot, Rule
from pipeline.reporting.page.table import Bar, Cell, Column, Row, Table, name_cell
from pipeline.reporting.run.plot_rows import energy_rows, spectra_rows
from pipeline.reporting.run.rows import EnergyRow, SpectrumRow
from pipeline.reporting.run.story import Story

MOST = 12  # layers that are drawn
_MOST_POINTS = 64  # of a line


@dataclass(frozen=True)
class Card:
    """A layer: its name, what was chosen, and a plot for each view."""

    name: str
    chosen: str
    plots: Sequence[Plot]


def spectra_cards(story: Story) -> list[Card]:
    """The layers with the most parameters, in the network's order. Narrowed layers are left out:
    they keep channels and no directions."""
    layers = {row.name: row for row in story.layers if not is_narrower(row.method)}
    weight = {name: float(row.dense_params) for name, row in layers.items()}
    names = largest(list(layers), weight, MOST)
    values: dict[tuple[str, str], list[SpectrumRow]] = {}
    energy: dict[tuple[str, str], list[EnergyRow]] = {}
    for one in spectra_rows(story.facts):
        values.setdefault((one.layer, one.view), []).append(one)
    for held in energy_rows(story.facts):
        energy.setdefault((held.layer, held.view), []).append(held)
    cards = []
    for name in names:
        row = layers[name]
        chosen = f"{row.method} {ranks_text(row.ranks)}" if row.ranks else "dense"
        # One direction is no spectrum: the first layer of grey images has one input channel.
        views = [view for (layer, view), own in values.items() if layer == name and len(own) > 1]
        plots = [
            _plot(values[name, view], energy[name, view], factorized=bool(row.ranks))
            for view in views
        ]
        cards.append(Card(name or "(root)", chosen, plots))
    return cards


def widths_table(story: Story) -> Table | None:
    """A line for each inner dimension; None where no channels are left out."""
    plan = story.facts.plan
    widths = plan.widths
    if not widths or plan.narrowing is None:
        return None
    found = plan.narrowing.found
    most = max(found[name].width for name in widths)
    rows = [
        Row(
            [
                name_cell(name),
                Cell(
                    str(width),
                    width,
                    small=f"of {found[name].width}",
                    graphic=Bar(width / most, found[name].width / most),
                ),
                Cell(", ".join(m.layer for m in found[name].layers), kind="wrapped"),
            ]
        )
        for name, width in widths.items()
    ]
    columns = [Column("before"), Column("channels"), Column("layers")]
    return Table("the inner dimensions that are narrower", columns, rows)


def _plot(values: Sequence[SpectrumRow], energy: Sequence[EnergyRow], *, factorized: bool) -> Plot:
    view, kept = values[0].view, values[0].kept_rank
    full = energy[0].full_rank
    held = next((row.energy for row in energy if row.rank == kept), 1.0)
    cut = factorized and kept < full
    lost = f"{max(0.0, 100 * (1 - held)):.2g} % of the energy left out"
    told = f"{kept} of {full}, {lost}" if cut else f"all {full}"
    return Plot(
        title=f"{VIEWS[view]}: {told}",
        x=make_axis("", [], "{:g}".format, whole=True, within=(0.0, float(full))),
        y=Axis("", 0.0, 1.0, log=False, ticks=(Tick(0.0, "0"), Tick(0.5, "½"), Tick(1.0, "1"))),
        lines=[
            Line([(0.0, 0.0), *_thinned([(r.rank, r.energy) for r in energy])], "energy",
                 filled=True),
            Line(_thinned([(r.index, r.singular_value) for r in values]), "spectrum"),
        ],
        rules=[Rule(kept, "")] if cut else [],
        width=190,
        height=116,
        left=16,
        top=8,
        bottom=20,
    )  # fmt: skip


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, len(points) // _MOST_POINTS)
    return [*points[::step], *([points[-1]] if (len(points) - 1) % step else [])]
