"""spectra.png: one small panel a layer, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.reporting.run.rows import SpectrumRow
from pipeline.reporting.style import (
    INK,
    VIEWS,
    headed,
    largest,
    layer_names,
    left_out,
    new_figure,
    plain_numbers,
    short,
)

MOST_PANELS = 24
NOISE = 1e-6  # of the largest singular value: a rank-deficient weight's zeros, not its spectrum


def draw_spectra(rows: Sequence[SpectrumRow], params: Mapping[str, float], metric: str) -> Figure:
    """rows: `spectra_rows`; params: dense parameters a layer, which choose the panels."""
    every = layer_names(rows)
    names = largest(every, dict(params), MOST_PANELS)
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(max(2.6 * columns, 7.0), 0.9 + 1.75 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    curves = {name: [row for row in rows if row.layer == name] for name in names}
    for axes, (name, curve) in zip(panels, curves.items(), strict=False):
        _panel(axes, name, curve)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    _labels(panels, len(names), columns)
    panels[0].set_ylim(_floor([row for curve in curves.values() for row in curve]), 1.4)
    _legend(figure, {row.view for curve in curves.values() for row in curve})
    headed(
        figure,
        f"Singular values ({metric} metric)",
        left_out(len(names), len(every), "the most parameters", "plots/spectra.csv"),
    )
    return figure


def _panel(axes: Axes, name: str, rows: Sequence[SpectrumRow]) -> None:
    for view in sorted({row.view for row in rows}):
        curve = {row.index: row.singular_value for row in rows if row.view == view}
        above = {index: value for index, value in curve.items() if value > NOISE}
        colour = VIEWS[view][0]
        axes.plot(list(above), list(above.values()), color=colour)
        kept = next(row.kept_rank for row in rows if row.view == view)
        if kept < max(curve) and kept in above:
            axes.plot([kept], [above[kept]], "o", ms=6, mfc="white", mec=colour, mew=1.5, zorder=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.set_title(short(name, 28), fontsize=8.5, fontweight="normal")


def _floor(rows: Sequence[SpectrumRow]) -> float:
    """Lower end of the axis: a few tails that fall off a cliff may leave it, so that the
    spectra of all other layers keep the height of the panels."""
    values = sorted(row.singular_value for row in rows if row.singular_value > NOISE)
    return min(0.1, 0.6 * values[len(values) // 50]) if values else 0.1


def _labels(panels: Sequence[Axes], count: int, columns: int) -> None:
    for axes in panels[max(count - columns, 0) : count]:  # the lowest panel of each column
        axes.set_xlabel("index")
        axes.tick_params(labelbottom=True)
    for axes in panels[::columns]:
        axes.set_ylabel("σ / largest σ")


def _legend(figure: Figure, views: set[str]) -> None:
    handles = [Line2D([], [], color=c, label=t) for v, (c, t) in VIEWS.items() if v in views]
    handles.append(
        Line2D([], [], ls="", marker="o", mfc="white", mec=INK, mew=1.5, label="kept rank")
    )
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
