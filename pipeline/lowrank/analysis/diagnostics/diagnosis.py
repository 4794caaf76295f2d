"""All figures that this package knows of one matrix, from its singular values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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
    full_spectrum,
    numerical_rank,
    stable_rank,
)
from pipeline.lowrank.analysis.diagnostics.thresholds import evbmf_rank, optimal_threshold_rank


@dataclass(frozen=True)
class Diagnosis:
    """The figures of one matrix; their own functions explain them. `energy_90` and `energy_99`
    count the directions that hold 90 and 99 % of ‖W‖_F². A figure is None where the spectrum is too
    short or too empty for it."""

    numerical_rank: int
    effective_rank: float
    stable_rank: float
    energy_90: int
    energy_99: int
    power_law: PowerLaw | None
    density_law: DensityLaw | None
    noise: NoiseFit | None
    evbmf_rank: int
    optimal_threshold_rank: int


def diagnose(singular_values: Tensor, shape: tuple[int, int]) -> Diagnosis:
    """Diagnosis of a (rows, columns) matrix.

    singular_values: (≤ min(shape),) descending, float64; absent ones count as zeros.
    """
    values = full_spectrum(singular_values, shape)
    return Diagnosis(
        numerical_rank=numerical_rank(values),
        effective_rank=effective_rank(values),
        stable_rank=stable_rank(values),
        energy_90=energy_rank(values, 0.9),
        energy_99=energy_rank(values, 0.99),
        power_law=fit_power_law(values),
        density_law=fit_density_law(values),
        noise=fit_noise(values, shape),
        evbmf_rank=evbmf_rank(values, shape),
        optimal_threshold_rank=optimal_threshold_rank(values, shape),
    )
