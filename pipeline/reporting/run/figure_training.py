"""training.png: the change of every layer's singular values and effective rank in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.reporting.run.rows import TrainingRow
from pipeline.reporting.run.spectral import SpectralRow
from pipeline.reporting.style import (
    DENSE,
    FIRST,
    INK,
    MOST_BARS,
    SECOND,
    bar_height,
    headed,
    largest,
    layer_axis,
    new_figure,
    short,
)

_RATIOS = (
    ("trailing_ratio", "trailing half", SECOND, "o"),
    ("norm_ratio", "all", INK, "|"),
    ("leading_ratio", "leading tenth", FIRST, "o"),
)
_EARLY, _LATE = 0.25, 1.0  # of the colour map: the first state is still seen on white


def draw_training(rows: Sequence[TrainingRow], table: Sequence[SpectralRow]) -> Figure:
    """rows: `training_rows`; table: `spectral_rows`, whose changes choose the lines."""
    changed = {row.name: _change(row) for row in table}
    names = largest([row.name for row in table], changed, MOST_BARS)
    place = {name: line for line, name in enumerate(names)}
    figure = new_figure(9.5, bar_height(len(names), 1.9))
    ratios, ranks = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    _ratios(ratios, [row for row in table if row.name in place], place)
    _ranks(ranks, [row for row in rows if row.layer in place], place)
    layer_axis(ratios, [short(name) for name in names])
    ranks.grid(False, axis="y")
    note = ""
    if len(names) < len(table):
        note = f"the {len(names)} of {len(table)} layers that changed most"
        note += "; all in reports/spectra.csv"
    headed(figure, "What training did to the spectra", note)
    return figure


def _ratios(axes: Axes, table: Sequence[SpectralRow], place: Mapping[str, int]) -> None:
    axes.set_xscale("log")
    for row in table:
        known = [getattr(row, key) for key, *_ in _RATIOS if getattr(row, key)]
        if known:
            line = place[row.name]
            axes.plot([min(known), max(known)], [line, line], color="#DDDDDD", lw=2.5, zorder=1)
    for key, label, colour, marker in _RATIOS:
        some = [row for row in table if getattr(row, key)]
        axes.plot(
            [getattr(row, key) for row in some],
            [place[row.name] for row in some],
            marker,
            color=colour,
            ms=5 if marker == "o" else 9,
            label=label,
            zorder=3,
        )
    axes.axvline(1.0, color=DENSE, lw=1.0, zorder=0)
    _ratio_axis(axes)
    axes.set_xlabel("root mean square of singular values, trained / initial")
    axes.set_title("Size")
    _legend(axes)


def _ratio_axis(axes: Axes) -> None:
    """Puts ticks at 0.5, 1, 2 … and room beside them, for any range."""
    low, high = axes.get_xlim()
    low, high = min(low, 0.8), max(high, 1.25)
    step = max(1, math.ceil(math.log2(high / low) / 8))
    powers = range(-40 * step, 41 * step, step)
    axes.set_xticks([2.0**p for p in powers if low <= 2.0**p <= high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)


def _ranks(axes: Axes, rows: Sequence[TrainingRow], place: Mapping[str, int]) -> None:
    tracks: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.relative_rank is not None:
            tracks.setdefault(row.layer, []).append((row.step, row.relative_rank))
    last = max((row.step for row in rows), default=0) or 1
    shade = colormaps["Blues"]
    for name, track in tracks.items():
        values, line = [rank for _, rank in track], place[name]
        axes.plot([min(values), max(values)], [line, line], color="#DDDDDD", lw=2.5, zorder=1)
        colours = [shade(_EARLY + (_LATE - _EARLY) * step / last) for step, _ in track]
        axes.scatter(values, [line] * len(values), c=colours, s=26, zorder=3, lw=0)
    for label, done in (("initial", 0.0), ("halfway", 0.5), ("trained", 1.0)):
        colour = shade(_EARLY + (_LATE - _EARLY) * done)
        axes.plot([], [], "o", color=colour, ms=5, label=label)
    axes.axvline(1.0, color=DENSE, lw=1.0, zorder=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    axes.set_xlabel("effective rank, as a fraction of the initial one")
    axes.set_title("Effective rank")
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        borderaxespad=0.1,
        columnspacing=0.8,
        handletextpad=0.1,
    )


def _change(row: SpectralRow) -> float:
    """How far the leading and the trailing values moved apart from 1, in octaves."""
    known = [ratio for ratio in (row.leading_ratio, row.trailing_ratio) if ratio]
    return max((abs(math.log2(ratio)) for ratio in known), default=0.0)
