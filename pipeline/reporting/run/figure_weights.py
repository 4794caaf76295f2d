"""weights.png: singular values before and after training, against the edge of the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.reporting.run.rows import WeightRow
from pipeline.reporting.run.spectral import SpectralRow
from pipeline.reporting.style import (
    DENSE,
    FIRST,
    SECOND,
    headed,
    largest,
    new_figure,
    plain_numbers,
    short,
)

MOST_PANELS = 20
_NOISE_AREA = "#F6EFE6"
_LOWEST = (
    0.02  # of the edge: what is below may leave the picture, so that the rest keeps its height
)


@dataclass(frozen=True)
class _Panel:
    """A layer's singular values, where its noise ends, and how many spikes stand above it."""

    edge: float
    spikes: int
    rows: list[WeightRow]


def draw_weights(rows: Sequence[WeightRow], table: Sequence[SpectralRow]) -> Figure:
    """rows: `weight_rows`; table: `spectral_rows`, whose spikes choose the panels."""
    panels_of = _panels(rows, table)
    held = {row.name: row.spike_energy or 0.0 for row in table}
    names = largest(list(panels_of), held, MOST_PANELS)
    columns = min(4, max(len(names), 1))
    lines = max(math.ceil(len(names) / columns), 1)
    figure = new_figure(max(2.6 * columns, 7.0), 1.0 + 1.8 * lines)
    panels = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, name, panels_of[name])
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    shown = [panels_of[name] for name in names]
    heights = [row.singular_value / panel.edge for panel in shown for row in panel.rows]
    _common_height(panels[0], heights)
    for axes in panels[max(len(names) - columns, 0) : len(names)]:
        axes.set_xlabel("index")
    for axes in panels[::columns]:
        axes.set_ylabel("σ / edge of the noise")
    _legend(figure, {row.state for row in rows})
    headed(figure, "Weights against noise", _note(len(names), len(panels_of), len(table)))
    return figure


def _panels(rows: Sequence[WeightRow], table: Sequence[SpectralRow]) -> dict[str, _Panel]:
    """{layer: its panel}, for the layers whose noise has a fit."""
    spikes = {row.name: row.spikes or 0 for row in table}
    panels: dict[str, _Panel] = {}
    for row in rows:
        if row.edge is not None:
            panel = panels.setdefault(row.layer, _Panel(row.edge, spikes[row.layer], []))
            panel.rows.append(row)
    return panels


def _panel(axes: Axes, name: str, panel: _Panel) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    edge, spikes = panel.edge, panel.spikes
    for state, colour in (("initial", DENSE), ("trained", FIRST)):
        points = {
            row.index: row.singular_value / edge
            for row in panel.rows
            if row.state == state and row.singular_value > _LOWEST * edge
        }
        axes.plot(list(points), list(points.values()), color=colour, lw=1.6, zorder=3)
        if state == "trained":
            above = {index: value for index, value in points.items() if index <= spikes}
            axes.plot(list(above), list(above.values()), "o", color=colour, ms=3.6, zorder=4)
    axes.axhspan(1e-9, 1.0, color=_NOISE_AREA, zorder=0)
    axes.axhline(1.0, color=SECOND, lw=1.0, ls=(0, (4, 2)), zorder=2)
    axes.grid(False)
    axes.margins(x=0.06)
    plain_numbers(axes.xaxis)
    axes.set_title(short(name, 28), fontsize=8.5, fontweight="normal")
    text = "no spike" if not spikes else f"{spikes} spike{'s' if spikes > 1 else ''}"
    axes.annotate(
        text,
        (0.97, 0.94),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=7.5,
        color=FIRST if spikes else "#777777",
    )


def _common_height(axes: Axes, heights: Sequence[float]) -> None:
    """Gives all panels one range, with marks at 1, 2 and 5 of every power of ten in it."""
    low = 0.8 * max(min(heights, default=0.1), _LOWEST)
    high = 1.5 * max(*heights, 1.5) if heights else 2.0
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    marks = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [m * 10.0**p for p in powers for m in marks]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    plain_numbers(axes.yaxis)
    axes.set_ylim(low, high)


def _legend(figure: Figure, states: set[str]) -> None:
    handles = [Line2D([], [], color=FIRST, label="trained")]
    if "initial" in states:
        handles.insert(0, Line2D([], [], color=DENSE, label="initial"))
    handles.append(Line2D([], [], ls="", marker="o", ms=3.6, color=FIRST, label="spike"))
    handles.append(Line2D([], [], color=SECOND, lw=1.0, ls=(0, (4, 2)), label="edge of the noise"))
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def _note(shown: int, fitted: int, total: int) -> str:
    """Says what the picture leaves out, and for what it must not be taken."""
    parts = ["a diagnostic: trained weights are not independent entries"]
    if shown < fitted:
        parts.append(f"the {shown} of {fitted} layers with the most energy in spikes")
    if fitted < total:
        parts.append(f"{total - fitted} without a noise fit")
    return "; ".join(parts) + ("; all in reports/spectra.csv" if shown < total else "")
