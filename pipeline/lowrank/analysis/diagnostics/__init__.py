"""Figures of a spectrum: pure functions of the singular values of any matrix."""

from pipeline.lowrank.analysis.diagnostics.diagnosis import Diagnosis, diagnose
from pipeline.lowrank.analysis.diagnostics.noise import NoiseFit, fit_noise
from pipeline.lowrank.analysis.diagnostics.power_law import (
    DensityLaw,
    PowerLaw,
    fit_density_law,
    fit_power_law,
)
from pipeline.lowrank.analysis.diagnostics.rank import (
    effective_rank,
    energy_rank,
    numerical_rank,
    stable_rank,
)
from pipeline.lowrank.analysis.diagnostics.thresholds import evbmf_rank, optimal_threshold_rank
from pipeline.lowrank.analysis.diagnostics.training import (
    Claim,
    Claims,
    TrainingEffect,
    count_claims,
    measure_training,
)

__all__ = [
    "Claim",
    "Claims",
    "DensityLaw",
    "Diagnosis",
    "NoiseFit",
    "PowerLaw",
    "TrainingEffect",
    "count_claims",
    "diagnose",
    "effective_rank",
    "energy_rank",
    "evbmf_rank",
    "fit_density_law",
    "fit_noise",
    "fit_power_law",
    "measure_training",
    "numerical_rank",
    "optimal_threshold_rank",
    "stable_rank",
]
