"""The content of analysis.json, which analyze writes for people and for the reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.lowrank.analysis import diagnostics
from pipeline.lowrank.analysis.history import TrainingCourse, WeightDiagnosis
from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.analysis.spectra import Spectra, View
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.skipped import Skipped
from pipeline.lowrank.network.targets import Target


@dataclass(frozen=True)
class ViewDiagnosis:
    """A view of a target in the metric of the analysis: how many singular values it has (`size`),
    and figures of its spectrum."""

    size: int
    effective_rank: float
    stable_rank: float
    power_law: diagnostics.PowerLaw | None


@dataclass(frozen=True)
class TargetRecord:
    """A target: its facts and costs, ‖W‖² in the metric, and its views. `weights` is the diagnosis
    of the weight itself, which no metric changes; None where its spectra were not asked for."""

    target: Target
    params: int
    macs: int
    squared_norm: float
    views: Mapping[str, ViewDiagnosis]
    weights: WeightDiagnosis | None


@dataclass(frozen=True)
class AnalysisRecord:
    """The content of analysis.json; the fields are those of `Analysis` and `TargetRecord`."""

    metric: MetricName
    damping: float | None
    network: Totals
    targets: Mapping[str, TargetRecord]
    training: TrainingCourse | None
    skipped: Mapping[str, Skipped]
    notes: Mapping[str, str]


def diagnose_view(view: View) -> ViewDiagnosis:
    """The figures of one view."""
    values = view.singular_values
    return ViewDiagnosis(
        size=len(values),
        effective_rank=diagnostics.effective_rank(values),
        stable_rank=diagnostics.stable_rank(values),
        power_law=diagnostics.fit_power_law(values),
    )


def check_fit(folder: Path, record: AnalysisRecord, spectra: Mapping[str, Spectra]) -> None:
    """Raises LowRankError where spectra are missing or not those of a target's weight."""
    for name, entry in record.targets.items():
        target = entry.target
        fits = name in spectra and spectra[name].fit(target.group_shape, target.groups)
        if target.name != name or not fits:
            raise LowRankError(
                f"{folder}: the spectra of {name!r} are not those of its weight; rerun analyze"
            )
