"""errors.png: predicted and measured error of every factorized layer, inside its bounds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.reporting.run.rows import ErrorRow
from pipeline.reporting.style import (
    FIRST,
    MOST_BARS,
    RANGE,
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

_WIDE = 30.0  # from this ratio of the largest to the smallest error on, the axis is logarithmic


def draw_errors(rows: Sequence[ErrorRow]) -> Figure:
    """rows: `error_rows`. The layers with the largest measured errors, if they are too many."""
    if not rows:
        return _nothing()
    weight = {row.layer: row.measured for row in rows}
    names = largest([row.layer for row in rows], weight, MOST_BARS)
    shown = [row for row in rows if row.layer in set(names)]
    figure = new_figure(9.5, bar_height(len(names), 1.8))
    errors, tight = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    for line, row in enumerate(shown):
        for axes in (errors, tight):
            axes.axhline(line, color="#EEEEEE", lw=0.8, zorder=0)
        _line(errors, tight, line, row)
    _axes(errors, tight, shown)
    layer_axis(errors, [short(name) for name in names])
    tight.grid(False, axis="y")
    handles = [
        Patch(color=RANGE, label="certified range"),
        Line2D(
            [], [], ls="", marker="o", mfc="white", mec=SECOND, ms=8, mew=1.5, label="predicted"
        ),
        Line2D([], [], ls="", marker="o", color=FIRST, ms=4.5, label="measured"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    note = left_out(len(names), len(rows), "the largest errors", "plots/errors.csv")
    headed(figure, "Error of each factorized layer", note)
    return figure


def _line(errors: Axes, tight: Axes, line: int, row: ErrorRow) -> None:
    errors.barh(line, row.upper - row.lower, left=row.lower, height=0.5, color=RANGE)
    # Where both bounds are the error itself (Eckart–Young) the range has no width.
    errors.plot([row.lower, row.upper], [line, line], "|", color="#7FA8C6", ms=9, mew=1.5)
    errors.plot([row.predicted], [line], "o", ms=8, mfc="none", mec=SECOND, mew=1.5)
    errors.plot([row.measured], [line], "o", ms=4.5, color=FIRST)
    if row.upper > 0:
        tight.plot([row.measured / row.upper], [line], "o", ms=5, color=FIRST)


def _axes(errors: Axes, tight: Axes, rows: Sequence[ErrorRow]) -> None:
    values = [value for row in rows for value in (row.predicted, row.measured) if value > 0]
    if values and max(values) / min(values) > _WIDE:
        errors.set_xscale("log")
        plain_numbers(errors.xaxis)
    else:
        errors.set_xlim(left=0.0)
    errors.set_xlabel("relative error ‖W − Ŵ‖ / ‖W‖")
    ratios = [row.measured / row.upper for row in rows if row.upper]
    tight.set_xlim(min([0.65, *(ratio - 0.05 for ratio in ratios)]), 1.03)
    tight.axvline(1.0, color="#7FA8C6", lw=1.2, zorder=1)
    tight.set_xlabel("measured / upper bound (1 is tight)")


def _nothing() -> Figure:
    figure = new_figure(9.5, 2.0)
    figure.text(0.5, 0.45, "No layer was factorized: nothing to measure.", ha="center")
    headed(figure, "Error of each factorized layer")
    return figure
