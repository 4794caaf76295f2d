"""Low-rank factorization of trained networks: usable alone, in a notebook.

>>> from pipeline import lowrank as lr
>>> plan = lr.plan(net, lr.Budget(params=0.4), calibration=batches)  # changes nothing
>>> print(plan)                                                     # a table
>>> report = lr.apply_(net, plan)                                   # in place, certified
>>> lr.save(net, "small/")
>>> net = lr.load_(MyNet(), "small/")
"""

# ruff: noqa: F401  # names are imported for the type checker here, and when they are asked for
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Names are imported when they are asked for: a stage that needs one module of this package
# then depends on that one alone, and a change to a policy does not train the baseline again.
if TYPE_CHECKING:
    from pipeline.lowrank import tasks
    from pipeline.lowrank.adapters.attach import AdapterOptions, attach_, merge_, names_inside
    from pipeline.lowrank.adapters.extract import Extraction, extract_adapter, save_adapter
    from pipeline.lowrank.analysis.analysis import Analysis, analyze
    from pipeline.lowrank.analysis.divergence import Divergence
    from pipeline.lowrank.analysis.files import load_analysis, save_analysis
    from pipeline.lowrank.analysis.options import AnalysisOptions
    from pipeline.lowrank.bounds import Bounds, certify
    from pipeline.lowrank.errors import LowRankError
    from pipeline.lowrank.exports.export import export
    from pipeline.lowrank.exports.record import Export
    from pipeline.lowrank.factorize.apply import Compression, apply_
    from pipeline.lowrank.factorize.deciding import compress_, plan, plan_from
    from pipeline.lowrank.factorize.layer import LayerReport
    from pipeline.lowrank.forms.dense import to_dense_
    from pipeline.lowrank.forms.files import load, load_, save
    from pipeline.lowrank.forms.surgery import Factorized
    from pipeline.lowrank.methods import (
        CP,
        METHODS,
        SVD,
        Interpolative,
        PivotedSVD,
        PivotedTucker2,
        SpatialSVD,
        SVDIn,
        Tucker,
        Tucker2,
        make_method,
    )
    from pipeline.lowrank.planning.files import load_plan, save_plan
    from pipeline.lowrank.planning.overrides import Override
    from pipeline.lowrank.planning.plan import Plan, PlannedLayer
    from pipeline.lowrank.planning.policies import (
        EVBMF,
        POLICIES,
        Budget,
        Compute,
        Energy,
        Error,
        Fixed,
        Loss,
        OptimalThreshold,
    )
    from pipeline.lowrank.planning.timing.workload import Workload

_HOMES = {
    "adapters.attach": ("AdapterOptions", "attach_", "merge_", "names_inside"),
    "adapters.extract": ("Extraction", "extract_adapter", "save_adapter"),
    "analysis.analysis": ("Analysis", "analyze"),
    "analysis.files": ("load_analysis", "save_analysis"),
    "analysis.divergence": ("Divergence",),
    "analysis.options": ("AnalysisOptions",),
    "bounds": ("Bounds", "certify"),
    "errors": ("LowRankError",),
    "exports.export": ("export",),
    "exports.record": ("Export",),
    "factorize.apply": ("Compression", "apply_"),
    "factorize.deciding": ("compress_", "plan", "plan_from"),
    "factorize.layer": ("LayerReport",),
    "forms.dense": ("to_dense_",),
    "forms.files": ("load", "load_", "save"),
    "forms.surgery": ("Factorized",),
    "methods": (
        "CP",
        "Interpolative",
        "METHODS",
        "PivotedSVD",
        "PivotedTucker2",
        "SVD",
        "SVDIn",
        "SpatialSVD",
        "Tucker",
        "Tucker2",
        "make_method",
    ),
    "planning.files": ("load_plan", "save_plan"),
    "planning.overrides": ("Override",),
    "planning.plan": ("Plan", "PlannedLayer"),
    "planning.timing.workload": ("Workload",),
    "planning.policies": (
        "Budget",
        "Compute",
        "EVBMF",
        "Energy",
        "Error",
        "Fixed",
        "Loss",
        "OptimalThreshold",
        "POLICIES",
    ),
}
_EXPORTS = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["tasks", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return import_module(f"{__name__}.tasks")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
