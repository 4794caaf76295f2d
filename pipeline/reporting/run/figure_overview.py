"""overview.png: dense, compressed and fine-tuned at one glance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.reporting.run.measures import measures
from pipeline.reporting.run.metrics import Metrics
from pipeline.reporting.style import (
    COMPRESSED,
    DENSE,
    FINE_TUNED,
    headed,
    new_figure,
)
from pipeline.reporting.words import human_bytes, human_count

_COLOURS = (DENSE, COMPRESSED, FINE_TUNED)
_NAMES = ("dense", "compressed", "fine-tuned")


def draw_overview(metrics: Metrics, title: str) -> Figure:
    """title: what was compressed, and how much."""
    figure = new_figure(9.5, 3.3)
    panels = figure.subplots(1, 4)
    dense, last = metrics.dense.scores, metrics.fine_tuned.scores
    first = measures(dense, metrics.measures)[0]
    change = first.change(first.name, dense, last)
    lines: list[tuple[str, str, Callable[[Any], str], str]] = [
        (first.label.capitalize(), first.name, first.show, change),
        ("Parameters", "params", human_count, f"{metrics.compression_ratio:.1f}× fewer"),
        ("Multiply-adds", "macs", human_count, f"{metrics.macs_ratio:.1f}× fewer"),
        ("File", "file_bytes", human_bytes, f"{metrics.file_ratio:.1f}× smaller"),
    ]
    for axes, (heading, key, show, change) in zip(panels, lines, strict=True):
        values = [network.figures()[key] for network in metrics.networks.values()]
        _bars(axes, values, show, heading, change.partition(" (")[0])
    handles = [Patch(color=c, label=n) for c, n in zip(_COLOURS, _NAMES, strict=True)]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    headed(figure, title)
    return figure


def _bars(
    axes: Axes, values: Sequence[float], show: Callable[[Any], str], heading: str, change: str
) -> None:
    axes.bar(range(3), values, width=0.72, color=_COLOURS)
    for place, value in enumerate(values):
        axes.annotate(
            show(value),
            (place, value),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
    axes.set_ylim(0, 1.12 * max(values))
    axes.set_yticks([])
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_title(heading, loc="center")
    axes.set_xlabel(change, fontsize=11, fontweight="bold", color=FINE_TUNED, labelpad=6)
