"""overview.png: dense, compressed and fine-tuned at one glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.workload.reporting.numbers import NETWORKS
from pipeline.workload.reporting.style import (
    COMPRESSED,
    DENSE,
    FINE_TUNED,
    headed,
    new_figure,
)
from pipeline.workload.reporting.words import human_bytes, human_count

_COLOURS = (DENSE, COMPRESSED, FINE_TUNED)
_NAMES = ("dense", "compressed", "fine-tuned")


def draw_overview(metrics: Mapping[str, Any], title: str) -> Figure:
    """metrics: metrics.json; title: what was compressed, and how much."""
    figure = new_figure(9.5, 3.3)
    panels = figure.subplots(1, 4)
    change = f"{-metrics['accuracy_drop_fine_tuned']:+.2f} points".replace("-", "−")
    _bars(panels[0], metrics, "accuracy", "Accuracy", change)
    _bars(panels[1], metrics, "params", "Parameters", f"{metrics['compression_ratio']:.1f}× fewer")
    _bars(panels[2], metrics, "macs", "Multiply-adds", f"{metrics['macs_ratio']:.1f}× fewer")
    _bars(panels[3], metrics, "file_bytes", "File", f"{metrics['file_ratio']:.1f}× smaller")
    handles = [Patch(color=c, label=n) for c, n in zip(_COLOURS, _NAMES, strict=True)]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    headed(figure, title)
    return figure


def _bars(axes: Axes, metrics: Mapping[str, Any], key: str, heading: str, change: str) -> None:
    values = [metrics[name][key] for name in NETWORKS]
    axes.bar(range(3), values, width=0.72, color=_COLOURS)
    for place, value in enumerate(values):
        axes.annotate(
            _label(key, value),
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


def _label(key: str, value: float) -> str:
    if key == "accuracy":
        return f"{100 * value:.2f} %"
    return human_bytes(int(value)) if key == "file_bytes" else human_count(int(value))
