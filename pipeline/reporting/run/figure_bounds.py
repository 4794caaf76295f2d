"""bounds.png: certified and measured output errors, layer by layer and of the network."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.reporting.run.rows import BoundRow, NetworkBoundRow
from pipeline.reporting.style import (
    COMPRESSED,
    DENSE,
    FIRST,
    MOST_BARS,
    SECOND,
    bar_height,
    headed,
    largest,
    layer_axis,
    left_out,
    new_figure,
    plain_numbers,
    short,
)

_WIDE = 10.0  # less than a decade has no ticks on a logarithmic axis
_COLOURS = {"measured": FIRST, "certificate": SECOND, "worst_case": COMPRESSED}
_WORDS = {
    "measured": "measured, largest",
    "certificate": "certificate, largest",
    "worst_case": "worst case",
    "printed_formula": "course module's formula\n(not a bound)",
}


def draw_bounds(
    rows: Sequence[BoundRow], network: Sequence[NetworkBoundRow], reason: str | None
) -> Figure:
    """rows: `bound_rows`; network: `network_bound_rows`; reason: why there is no certificate."""
    weight = {row.layer: row.bound for row in rows}
    names = largest([row.layer for row in rows], weight, MOST_BARS)
    shown = [row for row in rows if row.layer in set(names)]
    figure = new_figure(9.5, bar_height(len(names), 2.0))
    layers, whole = figure.subplots(1, 2, width_ratios=(1.4, 1))
    _layers(layers, shown)
    layer_axis(layers, [short(name) for name in names])
    _network(whole, network, reason)
    handles = [
        Line2D([], [], ls="", marker="o", color=FIRST, ms=5, label="measured"),
        Line2D([], [], ls="", marker="|", color=SECOND, ms=11, mew=2, label="certified bound"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    note = left_out(len(names), len(rows), "the largest bounds", "plots/bounds.csv")
    headed(figure, "Certified output errors", note)
    return figure


def _layers(axes: Axes, rows: Sequence[BoundRow]) -> None:
    for line, row in enumerate(rows):
        axes.plot([row.measured, row.bound], [line, line], color="#CCCCCC", lw=1.2, zorder=1)
        axes.plot([row.bound], [line], "|", ms=11, mew=2, color=SECOND)
        axes.plot([row.measured], [line], "o", ms=5, color=FIRST)
    seen = [value for row in rows for value in (row.measured, row.bound) if value > 0]
    if seen and max(seen) / min(seen) > _WIDE:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    else:
        axes.set_xlim(left=0.0)
    axes.set_xlabel("‖(W − Ŵ)h‖ / ‖h‖, its largest value, and ‖W − Ŵ‖₂")
    axes.set_title("Layers")


def _network(axes: Axes, rows: Sequence[NetworkBoundRow], reason: str | None) -> None:
    values = [row.value for row in rows]
    for line, (row, value) in enumerate(zip(rows, values, strict=True)):
        colour = _COLOURS.get(row.figure)
        hatch = None if colour else "////"
        axes.barh(line, value, height=0.6, color=colour or "white", hatch=hatch, ec=colour or DENSE)
        axes.annotate(
            f"{float(f'{value:.3g}'):,g}",
            (value, line),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    layer_axis(axes, [_WORDS[row.figure] for row in rows])
    positive = [value for value in values if value > 0]
    if positive:
        axes.set_xscale("log")
        axes.set_xlim(min(positive) / 5, max(positive) * 30)
    axes.set_xlabel("‖f(x) − f̂(x)‖ at the output")
    axes.set_title("Network")
    if reason:
        text = f"No certificate: {reason}"
        axes.annotate(
            text, (0.02, 0.08), xycoords="axes fraction", fontsize=7.5, wrap=True, color="#666666"
        )
