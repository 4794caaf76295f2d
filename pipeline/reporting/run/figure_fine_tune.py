"""fine_tune.png: loss and accuracy during the fine-tuning of the compressed network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.run.measures import in_percent
from pipeline.reporting.run.rows import FineTuneRow
from pipeline.reporting.style import (
    DENSE,
    FINE_TUNED,
    FIRST,
    INK,
    SECOND,
    THIRD,
    headed,
    new_figure,
)
from pipeline.training.curve import Curve, DescentPoint, EpochPoint

# The curves of the descent theorem: column of descent.csv → how it is drawn.
_DESCENT: dict[str, dict[str, Any]] = {
    "subset_loss": {"color": INK, "marker": "o", "ms": 4, "label": "measured"},
    "printed_false": {"color": SECOND, "ls": ":", "label": "formula as printed, false"},
    "descent": {"color": FIRST, "ls": "--", "label": "full-gradient bound"},
    "descent_sgd": {"color": THIRD, "ls": "-.", "label": "with gradient noise"},
}


def draw_fine_tune(
    rows: Sequence[FineTuneRow],
    baseline: Curve,
    descent: Sequence[DescentPoint],
    measure: str = "accuracy",
) -> Figure:
    """rows: `fine_tune_rows`; baseline: the curve of the dense network, for the dashed lines
    (its validation at the epoch that was kept); descent and measure: of the fine-tuning's curve."""
    checks = [row for row in rows if row.validation_loss is not None]
    if len(checks) < 2:
        figure = new_figure(9.5, 2.0)
        figure.text(0.5, 0.45, "The compressed network was not fine-tuned.", ha="center")
        headed(figure, "Fine-tuning")
        return figure
    figure = new_figure(13.0 if descent else 9.5, 3.7)
    dense = baseline.best  # None of an encoder, which has no labels to be measured by
    # What is kept: the first of the least losses. A training that ran out of time has it at a
    # fraction of an epoch.
    best = min(checks, key=lambda row: row.validation_loss or 0.0)
    loss, accuracy, *last = figure.subplots(1, 3 if descent else 2)
    steps = [row for row in rows if row.train_loss is not None]
    train = [row.train_loss for row in steps]
    loss.plot([row.epoch for row in steps], train, color=SECOND, lw=1, alpha=0.6, label="train")
    percent = in_percent(measure)
    _validation(loss, checks, best, dense, "validation_loss", 1.0)
    scale = 100.0 if percent else 1.0
    _validation(accuracy, checks, best, dense, "validation_accuracy", scale)
    loss.set_title("Loss")
    loss.set_ylim(bottom=0.0)
    accuracy.set_title(f"Validation {measure}, %" if percent else f"Validation {measure}")
    if percent:
        _widen(accuracy)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    if descent:
        _descent(last[0], descent)
    headed(figure, "Fine-tuning", _note(descent) if descent else "")
    return figure


def _descent(axes: Axes, rows: Sequence[DescentPoint]) -> None:
    for key, style in _DESCENT.items():
        axes.plot([row.epoch for row in rows], [getattr(row, key) for row in rows], **style)
    axes.set_title("Diagnostic: the descent theorem, training loss")
    # The formulas fall without end, and the noise term rises: the measured curve rules.
    top = max(row.subset_loss for row in rows)
    axes.set_ylim(-0.5 * top, 2.0 * top)
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.legend(loc="best", fontsize=7.5)


def _note(rows: Sequence[DescentPoint]) -> str:
    smoothness = max(row.smoothness for row in rows)
    return (
        "right: no bounds here, which need full gradients, no momentum and a learning rate ≤ 1/L; "
        f"the estimate of L rises to {smoothness:.3g}"
    )


def _validation(
    axes: Axes,
    checks: Sequence[FineTuneRow],
    best: FineTuneRow,
    dense: EpochPoint | None,
    key: Literal["validation_loss", "validation_accuracy"],
    scale: float,
) -> None:
    epochs = [row.epoch for row in checks]
    values = [scale * getattr(row, key) for row in checks]
    if dense:
        axes.axhline(
            scale * getattr(dense, key),
            label="dense network",
            color=DENSE,
            ls=(0, (4, 3)),
            lw=1.3,
        )
    axes.plot(epochs, values, "o-", color=FINE_TUNED, ms=4, label="validation")
    axes.plot(
        [best.epoch],
        [scale * getattr(best, key)],
        "o",
        ms=10,
        mfc="none",
        mec=INK,
        mew=1.3,
        ls="",
        label="kept",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch (0 is the compressed network)")


def _widen(axes: Axes) -> None:
    """Makes the axis at least two points of accuracy high: one example more or less would otherwise
    look like a cliff."""
    low, high = axes.get_ylim()
    missing = max(0.0, 2.0 - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)
