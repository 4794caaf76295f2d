"""The look of the pictures in docs/: colours, text, saving with the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart in all common forms of colour blindness, and in grey.
DENSE, FINE_TUNED = "#9A9A9A", "#0072B2"
INK, FAINT = "#333333", "#E4E4E4"
DPI = 150

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
