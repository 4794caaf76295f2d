"""Low-rank factorization of trained networks: usable alone, in a notebook.

>>> from pipeline.lowrank import Budget, apply_, plan
>>> chosen = plan(model, Budget(params=0.4), example)       # changes nothing
>>> model, reports = apply_(model, chosen)                  # in place
"""

from pipeline.lowrank.analysis import Analysis, analyze
from pipeline.lowrank.compress import LayerReport, apply_, compress_, plan
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import CP, METHODS, SVD, Tucker2
from pipeline.lowrank.plan import Plan, load_plan, save_plan
from pipeline.lowrank.policies import Budget, Compute, Energy, Error
from pipeline.lowrank.surgery import Factorized

__all__ = [
    "CP",
    "METHODS",
    "SVD",
    "Analysis",
    "Budget",
    "Compute",
    "Energy",
    "Error",
    "Factorized",
    "LayerReport",
    "LowRankError",
    "Plan",
    "Tucker2",
    "analyze",
    "apply_",
    "compress_",
    "load_plan",
    "plan",
    "save_plan",
]
