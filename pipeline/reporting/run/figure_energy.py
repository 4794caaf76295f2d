"""energy.png: how many directions hold how much of each layer, and how many were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.reporting.run.rows import EnergyRow
from pipeline.reporting.style import (
    INK,
    MOST_BARS,
    bar_height,
    headed,
    largest,
    layer_axis,
    layer_names,
    left_out,
    new_figure,
    short,
)

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
_BLUES = ("#08306B", "#2171B5", "#5A9BCB", "#9DC3E0", "#CFE1F0")  # dark holds most a direction
_REST = "#F3F3F3"
_SIDES = {"mode0": " · out", "mode1": " · in", "spatial": " · spatial", "matrix": ""}


def draw_energy(rows: Sequence[EnergyRow], params: Mapping[str, float]) -> Figure:
    """rows: `energy_rows`; params: dense parameters a layer, which choose the lines."""
    every = layer_names(rows)
    names = set(largest(every, dict(params), MOST_BARS // 2))
    lines: dict[tuple[str, str], list[EnergyRow]] = {}
    for row in rows:
        if row.layer in names:
            lines.setdefault((row.layer, row.view), []).append(row)
    figure = new_figure(9.0, bar_height(len(lines), 1.8))
    axes = figure.subplots()
    for line, curve in enumerate(lines.values()):
        full, kept = curve[0].full_rank, curve[0].kept_rank
        left = 0.0
        for level, colour in zip((*LEVELS, 1.0), (*_BLUES, _REST), strict=True):
            right = 1.0 if level == 1.0 else rank_of(curve, level) / full
            axes.barh(line, right - left, left=left, height=0.72, color=colour)
            left = right
        if kept < full:
            axes.plot([kept / full], [line], "D", ms=6, mfc="#E69F00", mec="white", mew=0.9)
    layer_axis(axes, [f"{short(name)}{_SIDES[view]}" for name, view in lines])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    axes.set_xlabel("leading directions, as a fraction of the full rank")
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=f"{100 * level:.0f} %")
        for level, colour in zip(LEVELS, _BLUES, strict=True)
    ]
    handles.append(
        Line2D([], [], ls="", marker="D", mfc="#E69F00", mec=INK, mew=0.4, label="kept rank")
    )
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=len(handles),
        handlelength=1.4,
        columnspacing=1.2,
    )
    headed(
        figure,
        "Energy in the leading directions",
        left_out(len(names), len(every), "the most parameters", "plots/energy.csv"),
    )
    return figure


def rank_of(curve: Sequence[EnergyRow], level: float) -> int:
    """The smallest rank in `curve` (ascending) whose energy reaches `level`."""
    return next((row.rank for row in curve if row.energy >= level), curve[-1].rank)
