"""Results from the spectra of the weights: the table, the plots' rows and a few headline
figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.lowrank.analysis.diagnostics import Diagnosis, NoiseFit
from pipeline.lowrank.analysis.history import WeightDiagnosis
from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.metrics import SpectraFigures
from pipeline.reporting.run.plot_rows import FEWEST_POINTS, MOST_POINTS, MOST_ROWS, thin
from pipeline.reporting.run.rows import TrainingRow, WeightRow

Verdict = Literal["yes", "no"] | None  # as spectra.csv has it


@dataclass(frozen=True)
class SpectralRow:
    """A row of spectra.csv: one target's weight. Figures that do not exist are None;
    docs/spectra.md explains the columns."""

    name: str
    rows: int
    columns: int
    numerical_rank: int
    effective_rank: float
    effective_rank_initial: float | None
    stable_rank: float
    stable_rank_initial: float | None
    energy_90: int
    energy_99: int
    alpha: float | None
    alpha_stderr: float | None
    alpha_ks: float | None
    alpha_poor: Verdict
    alpha_ww: float | None
    density_alpha: float | None
    density_stderr: float | None
    density_ks: float | None
    density_poor: Verdict
    noise_scale: float | None
    noise_scale_initial: float | None
    edge: float | None
    spike_edge: float | None
    detectable: float | None
    spikes: int | None
    spikes_initial: int | None
    spike_energy: float | None
    noise_ks: float | None
    noise_ks_initial: float | None
    evbmf_rank: int
    optimal_threshold_rank: int
    leading_ratio: float | None
    trailing_ratio: float | None
    norm_ratio: float | None
    leading_grew: Verdict
    trailing_shrank: Verdict
    rank_rose_then_fell: Verdict


def spectral_rows(facts: Facts) -> list[SpectralRow]:
    """The rows of spectra.csv, one for each target, in the network's order."""
    return [_spectral_row(name, facts.weight(name)) for name in facts.names]


def spectral_figures(facts: Facts) -> SpectraFigures:
    """The part of the metrics about spectra."""
    weights = [facts.weight(name) for name in facts.names]
    trained = [weight.trained for weight in weights]
    laws = [diagnosis.power_law for diagnosis in trained]
    course = facts.analysis.training
    claims = course.claims if course else None
    return SpectraFigures(
        layers=len(weights),
        effective_rank_fraction=_mean_fraction(weights, trained),
        spikes=sum(diagnosis.noise.spikes for diagnosis in trained if diagnosis.noise),
        poor_power_laws=sum(law is None or law.poor for law in laws),
        effective_rank_fraction_initial=_mean_fraction(
            weights, [weight.initial for weight in weights if weight.initial]
        )
        if claims
        else None,
        leading_grew=claims.leading_grew if claims else None,
        trailing_shrank=claims.trailing_shrank if claims else None,
        rank_rose_then_fell=claims.rank_rose_then_fell if claims else None,
    )


def weight_rows(facts: Facts) -> list[WeightRow]:
    """Rows of plots/weights.csv, state by state, values descending."""
    spectra = facts.weights
    states = {"trained": -1} if spectra.absent is not None else {"initial": 0, "trained": -1}
    count = len(states) * len(facts.names)
    limit = max(FEWEST_POINTS, min(MOST_POINTS, MOST_ROWS // count))
    rows = []
    for name in facts.names:
        noise = facts.weight(name).trained.noise
        edges = (noise.edge, noise.spike_edge) if noise else (None, None)
        spikes = range(1, min(noise.spikes, FEWEST_POINTS) + 1) if noise else ()
        for state, place in states.items():
            values = spectra.values[name][place].tolist()
            for index in thin(len(values), limit, keep=tuple(spikes)):
                rows.append(WeightRow(name, state, index, values[index - 1], *edges))
    return rows


def training_rows(facts: Facts) -> list[TrainingRow]:
    """Rows of plots/training.csv by step; none where the initial weights are not known."""
    rows = []
    for name in facts.names:
        effect = facts.weight(name).training
        ranks = effect.effective_ranks if effect else ()
        for step, rank in zip(facts.weights.steps, ranks, strict=False):
            change = rank / ranks[0] if ranks[0] > 0 else None
            rows.append(TrainingRow(name, step, rank, change))
    return rows


def _spectral_row(name: str, weight: WeightDiagnosis) -> SpectralRow:
    trained, initial, effect = weight.trained, weight.initial, weight.training
    power, density = trained.power_law, trained.density_law
    noise: NoiseFit | None = trained.noise
    noise_initial = initial.noise if initial else None
    return SpectralRow(
        name=name,
        rows=weight.shape[0],
        columns=weight.shape[1],
        numerical_rank=trained.numerical_rank,
        effective_rank=trained.effective_rank,
        effective_rank_initial=initial.effective_rank if initial else None,
        stable_rank=trained.stable_rank,
        stable_rank_initial=initial.stable_rank if initial else None,
        energy_90=trained.energy_90,
        energy_99=trained.energy_99,
        alpha=power.alpha if power else None,
        alpha_stderr=power.stderr if power else None,
        alpha_ks=power.ks if power else None,
        alpha_poor=_yes(power.poor if power else None),
        alpha_ww=power.alpha_ww if power else None,
        density_alpha=density.alpha if density else None,
        density_stderr=density.stderr if density else None,
        density_ks=density.ks if density else None,
        density_poor=_yes(density.poor if density else None),
        noise_scale=noise.scale if noise else None,
        noise_scale_initial=noise_initial.scale if noise_initial else None,
        edge=noise.edge if noise else None,
        spike_edge=noise.spike_edge if noise else None,
        detectable=noise.detectable if noise else None,
        spikes=noise.spikes if noise else None,
        spikes_initial=noise_initial.spikes if noise_initial else None,
        spike_energy=noise.spike_energy if noise else None,
        noise_ks=noise.ks if noise else None,
        noise_ks_initial=noise_initial.ks if noise_initial else None,
        evbmf_rank=trained.evbmf_rank,
        optimal_threshold_rank=trained.optimal_threshold_rank,
        leading_ratio=effect.leading_ratio if effect else None,
        trailing_ratio=effect.trailing_ratio if effect else None,
        norm_ratio=effect.norm_ratio if effect else None,
        leading_grew=_yes(effect.leading_grew if effect else None),
        trailing_shrank=_yes(effect.trailing_shrank if effect else None),
        rank_rose_then_fell=_yes(effect.rank_rose_then_fell if effect else None),
    )


def _yes(verdict: bool | None) -> Verdict:
    return None if verdict is None else ("yes" if verdict else "no")


def _mean_fraction(weights: list[WeightDiagnosis], states: list[Diagnosis]) -> float:
    fractions = [
        state.effective_rank / min(weight.shape)
        for weight, state in zip(weights, states, strict=True)
    ]
    return sum(fractions) / len(fractions)
