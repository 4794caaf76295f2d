"""What a spectrum says, for any matrix: pure functions of singular values."""

from pipeline.lowrank.diagnostics.power_law import PowerLaw, fit_power_law
from pipeline.lowrank.diagnostics.rank import (
    effective_rank,
    energy_rank,
    numerical_rank,
    stable_rank,
)
from pipeline.lowrank.diagnostics.thresholds import evbmf_rank, optimal_threshold_rank

__all__ = [
    "PowerLaw",
    "effective_rank",
    "energy_rank",
    "evbmf_rank",
    "fit_power_law",
    "numerical_rank",
    "optimal_threshold_rank",
    "stable_rank",
]
