"""The libraries of a sweep's processes, imported by their fork server before it forks any process.

No thread of Python's may be started here, and nothing computed by torch: a fork has no threads.
"""

from __future__ import annotations

import gc
from importlib import import_module

# What most stages import; anything else is imported where it is needed. First the package whose
# settings must be there before torch is, and the launcher whose workers have a start method of
# their own, which their children look up.
_LIBRARIES = (
    "stages",
    "joblib",
    "dvc.repo",
    "filelock",
    "lightning_fabric",
    "jinja2",
    "matplotlib.ticker",
    "networkx",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "tensorly.base",
    "torch",
    "yaml",
)


for _name in _LIBRARIES:
    import_module(_name)
gc.freeze()  # what is here stays: no fork looks through it for garbage
