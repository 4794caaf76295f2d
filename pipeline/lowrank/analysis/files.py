"""Analyses on disk: a folder with analysis.json, the spectra and the metrics. No pickles."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.history import WeightSpectra, save_weight_spectra
from pipeline.lowrank.analysis.record import AnalysisRecord, TargetRecord, check_fit, diagnose_view
from pipeline.lowrank.analysis.spectra import load_spectra, save_spectra
from pipeline.lowrank.analysis.stored import load_metrics, save_metrics
from pipeline.lowrank.typed import load_record, save_record

FILE = "analysis.json"


def save_analysis(folder: Path, analysis: Analysis, weights: WeightSpectra | None = None) -> None:
    """Writes a folder: analysis.json (facts and diagnostics), spectra.safetensors (float64) and,
    but for the metric `weight`, metrics.safetensors (float32).

    weights: spectra of the weights themselves, which are then written too, with their diagnostics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_spectra(folder, analysis.spectra)
    save_metrics(folder, analysis.metrics)
    if weights is not None:
        save_weight_spectra(folder, weights)
    record = AnalysisRecord(
        metric=analysis.metric,
        damping=analysis.damping,
        network=analysis.totals,
        targets={name: _target_record(analysis, name, weights) for name in analysis.targets},
        training=weights.course() if weights else None,
        skipped=analysis.skipped,
        notes=analysis.notes,
    )
    save_record(folder / FILE, record)


def load_analysis(folder: Path, device: torch.device | str = "cpu") -> Analysis:
    """Reads what `save_analysis` wrote; bases and metrics to `device`, where the network lies whose
    plan is to be made. Raises LowRankError when it is missing or damaged."""
    record = load_record(folder / FILE, AnalysisRecord, "rerun analyze")
    spectra = load_spectra(folder, device)
    check_fit(folder, record, spectra)
    return Analysis(
        metric=record.metric,
        totals=record.network,
        targets={name: entry.target for name, entry in record.targets.items()},
        spectra=spectra,
        skipped=record.skipped,
        metrics=load_metrics(folder, device) if record.metric != "weight" else {},
        damping=record.damping,
        notes=record.notes,
    )


def _target_record(analysis: Analysis, name: str, weights: WeightSpectra | None) -> TargetRecord:
    target, spectra = analysis.targets[name], analysis.spectra[name]
    return TargetRecord(
        target=target,
        params=target.params,
        macs=target.macs,
        squared_norm=spectra.squared_norm,
        views={key: diagnose_view(view) for key, view in spectra.views.items()},
        weights=weights.diagnosis(name) if weights else None,
    )
