"""One look for every picture: colours, text, saving with the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# Okabe and Ito's colours: told apart in all common forms of colour blindness, and in grey.
DENSE, COMPRESSED, FINE_TUNED = "#9A9A9A", "#E69F00", "#0072B2"
FIRST, SECOND, THIRD = "#0072B2", "#D55E00", "#009E73"
# A layer's views as plot_rows calls them: colour and words.
VIEWS = {
    "mode0": (FIRST, "output channels"),
    "mode1": (SECOND, "input channels"),
    "spatial": ("#CC79A7", "height by width"),
    "matrix": (THIRD, "matrix"),
}
INK, FAINT, RANGE = "#333333", "#E4E4E4", "#B8CFE0"

DPI = 150
MOST_BARS = 48  # layers in a picture with one line a layer
_LONGEST_NAME = 34

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def save_png(draw: Callable[[], Figure], path: Path) -> None:
    """Draws in our style, which no matplotlibrc changes, and writes the same bytes every time."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = draw()
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        # Laid out here, since savefig would go through all of the figure once more to do it.
        engine = figure.get_layout_engine()
        if figure.axes and engine is not None:
            engine.execute(figure)
        figure.set_layout_engine("none")
        # The Software entry would tie the bytes to matplotlib's version text.
        canvas.print_png(path, metadata={"Software": None})  # type: ignore[no-untyped-call]


def new_figure(width: float, height: float) -> Figure:
    """A figure of width × height inches that makes room for its labels."""
    return Figure(figsize=(width, height), layout="constrained")


def headed(figure: Figure, title: str, note: str = "") -> None:
    """Adds a title, and under it in small type a note on what is left out or how to read the
    figure."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if note:
        figure.text(0.01, 0.004, note, ha="left", va="bottom", fontsize=8, color="#666666")
        engine = figure.get_layout_engine()
        assert engine is not None
        bottom = 0.24 / figure.get_figheight()
        engine.set(rect=(0, bottom, 1, 1 - bottom))  # type: ignore[call-arg]


class OfLayer(Protocol):
    """A row of a plot that belongs to a layer."""

    @property
    def layer(self) -> str: ...


def layer_names(rows: Iterable[OfLayer]) -> list[str]:
    """The layers' names, in the order in which they come first."""
    return list(dict.fromkeys(row.layer for row in rows))


def largest(names: Sequence[str], weight: dict[str, float], most: int) -> list[str]:
    """The `most` names of greatest weight, still in their order."""
    chosen = sorted(names, key=lambda name: -weight[name])[:most]
    return [name for name in names if name in set(chosen)]


def left_out(shown: int, total: int, what: str, file: str) -> str:
    """A note on what the picture leaves out; empty when it shows all."""
    if shown == total:
        return ""
    return f"the {shown} of {total} layers with {what}; all in reports/{file}"


def short(name: str, longest: int = _LONGEST_NAME) -> str:
    """A long name with its middle cut: the ends tell layers apart."""
    if len(name) <= longest:
        return name or "(root)"
    head = (longest - 1) // 3
    return f"{name[:head]}…{name[len(name) - (longest - 1 - head) :]}"


def layer_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Labels an axis with one line for each layer, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(False, axis="y")


def plain_numbers(axis: Axis) -> None:
    """Writes 1000, 10, 0.01 on a logarithmic axis, where matplotlib writes powers of ten."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def bar_height(count: int, head: float = 1.5) -> float:
    """Inches for `count` lines plus title, axis and legend."""
    return head + 0.24 * max(count, 4)
