"""ranks.png: kept rank and kept parameters of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.run.rows import RankRow
from pipeline.reporting.style import (
    DENSE,
    FIRST,
    MOST_BARS,
    VIEWS,
    bar_height,
    headed,
    largest,
    layer_axis,
    layer_names,
    left_out,
    new_figure,
    short,
)
from pipeline.reporting.words import percent

# Two equal ranks of one layer stay two dots.
_SHIFT = {"mode0": -0.14, "mode1": 0.14, "spatial": 0.0, "matrix": 0.0}


def draw_ranks(rows: Sequence[RankRow], params: Mapping[str, float]) -> Figure:
    """rows: `rank_rows`; params: dense parameters a layer, which choose the lines."""
    every = layer_names(rows)
    names = largest(every, dict(params), MOST_BARS)
    place = {name: line for line, name in enumerate(names)}
    shown = [row for row in rows if row.layer in place]
    figure = new_figure(9.5, bar_height(len(names), 1.7))
    ranks, kept = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    _ranks(ranks, shown, place)
    _kept(kept, shown, place)
    layer_axis(ranks, [short(name) for name in names])
    kept.grid(False, axis="y")
    note = left_out(len(names), len(every), "the most parameters", "plots/ranks.csv")
    headed(figure, "Ranks and parameters kept", note)
    return figure


def _ranks(axes: Axes, rows: Sequence[RankRow], place: Mapping[str, int]) -> None:
    for line in place.values():
        axes.axhline(line, color="#EEEEEE", lw=0.8, zorder=0)
    for view, (colour, label) in VIEWS.items():
        some = [row for row in rows if row.view == view and row.method != "dense"]
        if some:
            axes.plot(
                [row.rank_fraction for row in some],
                [place[row.layer] + _SHIFT[view] for row in some],
                "o",
                color=colour,
                ms=5,
                label=label,
            )
    _percent(axes, "rank, as a fraction of the full rank")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=3,
            borderaxespad=0.1,
            columnspacing=1.0,
        )
    axes.set_title("Rank")


def _kept(axes: Axes, rows: Sequence[RankRow], place: Mapping[str, int]) -> None:
    for row in {row.layer: row for row in rows}.values():
        dense = row.method == "dense"
        line, fraction = place[row.layer], row.params_fraction
        axes.barh(line, fraction, height=0.62, color=DENSE if dense else FIRST)
        text = "dense" if dense else f"{percent(fraction)}  {row.method}"
        inside = fraction > 0.7
        axes.annotate(
            text,
            (fraction, line),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center_baseline",
            fontsize=7.5,
            color="white" if inside else None,
        )
    _percent(axes, "parameters, as a fraction of the dense layer's")
    axes.set_title("Parameters")


def _percent(axes: Axes, label: str) -> None:
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    axes.set_xlabel(label)
