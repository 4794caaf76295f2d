"""The page's charts as PNG files."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from pipeline.reporting.style import DENSE, FIRST, INK, headed, new_figure
from pipeline.reporting.sweep.entries import Comparison
from pipeline.reporting.sweep.front import COST_AXES, Front, find_front, is_wide
from pipeline.reporting.sweep.series import (
    LIGHT,
    Ranks,
    column_lines,
    layer_labels,
    series_of,
    steps,
)

_DENSE_CELL = "#F0F0F0"
_SCALE = LinearSegmentedColormap.from_list("kept", ["#F4F8FB", FIRST])
_DARK = 0.65  # kept fractions from here on have light text


def draw_fronts(comparison: Comparison) -> Figure:
    """A figure with one panel for each cost that is known."""
    fronts = [f for f in (find_front(comparison, axis) for axis in COST_AXES) if f.points]
    measure = comparison.measure
    assert measure is not None
    figure = new_figure(3.6 * max(len(fronts), 2), 3.7)
    panels = figure.subplots(1, len(fronts), squeeze=False, sharey=True)[0]
    for axes, front in zip(panels, fronts, strict=True):
        _front(axes, comparison, front)
    panels[0].set_ylabel(measure.label)
    if not comparison.higher_is_better and is_wide([p.quality for p in fronts[0].points]):
        panels[0].set_yscale("log")
    if measure.show(0.5).endswith("%"):
        panels[0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    handles = [
        Line2D([], [], marker="o", ls="", color=series.colour, label=_plain(series.name or "a job"))
        for series in series_of(comparison, fronts[0])
    ]
    handles.append(Line2D([], [], marker="D", ls="", color=DENSE, label="dense network"))
    # Where no point is: what is cheap and good lies in the opposite corner.
    corner = "lower right" if comparison.higher_is_better else "upper right"
    panels[0].legend(handles=handles, loc=corner)
    headed(
        figure,
        f"{measure.label.capitalize()} against cost",
        "line: the best jobs for each cost; lighter: another job is at least as good on both",
    )
    return figure


def _front(axes: Axes, comparison: Comparison, front: Front) -> None:
    corners = list(steps(front))
    axes.plot([x for x, _ in corners], [y for _, y in corners], color=INK, lw=1.0, zorder=1)
    best = {point.entry.number for point in front.best}
    for series in series_of(comparison, front):
        for point in series.points:
            on = point.entry.number in best
            axes.plot(
                point.cost,
                point.quality,
                "o",
                color=series.colour,
                ms=6.5 if on else 5.5,
                alpha=1.0 if on else LIGHT,
                zorder=3 if on else 2,
            )
    for x, y in front.dense:
        axes.plot(x, y, "D", color=DENSE, ms=6)
    if front.wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter() if front.axis.counts else "{x:g}")
    axes.set_xlabel(front.axis.label)
    axes.set_title(front.axis.title)


def draw_ranks(ranks: Ranks) -> Figure:
    """Layer × job; colour is the kept fraction of parameters, the text the ranks."""
    rows, columns = len(ranks.layers), len(ranks.entries)
    heads = [column_lines(entry) for entry in ranks.entries]
    deep = 0.16 * max(map(len, heads))
    figure = new_figure(max(5.5, 2.4 + 0.95 * columns), 0.9 + deep + 0.27 * rows)
    axes = figure.subplots()
    for line, row in enumerate(ranks.cells):
        for place, cell in enumerate(row):
            if cell is None:
                continue
            dense = cell.ranks == "dense"
            kept = min(cell.kept, 1.0)
            colour = _DENSE_CELL if dense else _SCALE(kept)
            axes.add_patch(Rectangle((place - 0.48, line - 0.46), 0.96, 0.92, color=colour))
            light = not dense and kept >= _DARK
            axes.text(
                place, line, cell.ranks, ha="center", va="center_baseline", fontsize=7.5,
                color="white" if light else INK,
            )  # fmt: skip
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(columns), [_plain("\n".join(lines)) for lines in heads])
    axes.set_yticks(range(rows), [_plain(name) for name in layer_labels(ranks.layers)])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    note = "colour: parameters kept; numbers: ranks"
    headed(figure, "Ranks along the front", f"{note}; {ranks.note}" if ranks.note else note)
    return figure


def _plain(text: str) -> str:
    """The text as it is, where matplotlib would read the part between two $ as a formula."""
    return text.replace("$", r"\$")
