"""Low-rank factorization of trained networks: usable alone, in a notebook.

>>> from pipeline.lowrank import Budget, apply_, plan
>>> chosen = plan(model, Budget(params=0.4), example)       # changes nothing
>>> model, reports = apply_(model, chosen)                  # in place
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Names are imported when they are asked for: a stage that needs one module of this package
# then depends on that one alone, and a change to a policy does not train the baseline again.
if TYPE_CHECKING:
    from pipeline.lowrank.adapters.attach import AdapterOptions, attach_, merge_
    from pipeline.lowrank.adapters.extract import Extraction, extract_adapter, save_adapter
    from pipeline.lowrank.analysis.analysis import Analysis, analyze
    from pipeline.lowrank.errors import LowRankError
    from pipeline.lowrank.factorize.apply import apply_, compress_, plan
    from pipeline.lowrank.factorize.layer import LayerReport
    from pipeline.lowrank.forms.surgery import Factorized
    from pipeline.lowrank.methods import CP, METHODS, SVD, SpatialSVD, SVDIn, Tucker, Tucker2
    from pipeline.lowrank.planning.overrides import Override
    from pipeline.lowrank.planning.plan import Plan, load_plan, save_plan
    from pipeline.lowrank.planning.policies import (
        EVBMF,
        Budget,
        Compute,
        Energy,
        Error,
        Fixed,
        Loss,
        OptimalThreshold,
    )

_HOMES = {
    "adapters.attach": ("AdapterOptions", "attach_", "merge_"),
    "analysis.analysis": ("Analysis", "analyze"),
    "factorize.apply": ("apply_", "compress_", "plan"),
    "errors": ("LowRankError",),
    "factorize.layer": ("LayerReport",),
    "adapters.extract": ("Extraction", "extract_adapter", "save_adapter"),
    "methods": ("CP", "METHODS", "SVD", "SVDIn", "SpatialSVD", "Tucker", "Tucker2"),
    "planning.overrides": ("Override",),
    "planning.plan": ("Plan", "load_plan", "save_plan"),
    "planning.policies": (
        "EVBMF",
        "Budget",
        "Compute",
        "Energy",
        "Error",
        "Fixed",
        "Loss",
        "OptimalThreshold",
    ),
    "forms.surgery": ("Factorized",),
}
_EXPORTS = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022
    "AdapterOptions",
    "attach_",
    "merge_",
    "Analysis",
    "analyze",
    "LayerReport",
    "apply_",
    "compress_",
    "plan",
    "LowRankError",
    "Extraction",
    "extract_adapter",
    "save_adapter",
    "CP",
    "METHODS",
    "SVD",
    "SVDIn",
    "SpatialSVD",
    "Tucker",
    "Tucker2",
    "Override",
    "Plan",
    "load_plan",
    "save_plan",
    "EVBMF",
    "Budget",
    "Compute",
    "Energy",
    "Error",
    "Fixed",
    "Loss",
    "OptimalThreshold",
    "Factorized",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
