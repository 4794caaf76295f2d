"""The libraries of a sweep's processes, imported by their fork server before it forks any process.

No thread of Python's may be started here, and nothing computed by torch: a fork has no threads.
"""

from __future__ import annotations

import gc
from importlib import import_module
from io import BytesIO

# What most stages import; anything else is imported where it is needed. First the package whose
# settings must be there before torch is, and the launcher whose workers have a start method of
# their own, which their children look up.
_LIBRARIES = (
    "stages",
    "joblib",
    "dvc.repo",
    "filelock",
    "lightning_fabric",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "networkx",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "tensorly.base",
    "torch",
    "yaml",
)


def _draw() -> None:
    """Finds the fonts, and builds the parser of the powers of ten on a logarithmic axis."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):  # not the style of matplotlibrc
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.loglog([1, 100], [1, 100], label="1")
        axes.legend()
        FigureCanvasAgg(figure).print_png(BytesIO())  # type: ignore[no-untyped-call]


for _name in _LIBRARIES:
    import_module(_name)
_draw()
gc.freeze()  # what is here stays: no fork looks through it for garbage
