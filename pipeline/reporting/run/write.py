"""reports/: metrics.json's content, the table of layers, the plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.numbers import headline, layer_rows, output_errors
from pipeline.reporting.run.plots import plot_rows, write_csv, write_figures, write_plots
from pipeline.reporting.run.spectral import SPECTRA_COLUMNS, spectral_headline, spectral_rows

LAYER_COLUMNS = (
    "name",
    "kind",
    "shape",
    "method",
    "ranks",
    "dense_params",
    "params",
    "dense_macs",
    "macs",
    "predicted_relative_error",
    "measured_relative_error",
    "lower_bound",
    "upper_bound",
    "refit_correction",
    "output_error_measured",
    "output_error_bound",
    "output_error_theorem",
    "cp_rank_limit",
    "cp_unique",
    "why",
)


def network_size(network: nn.Module, folder: Path, example: Tensor) -> dict[str, int]:
    """{"params", "macs" of one example, "file_bytes" of model.safetensors}.

    network: the one that loads from `folder`, so that nothing is taken from the plan;
    example: a batch of one.
    """
    if example.is_floating_point():
        example = example.to(next(network.parameters()).dtype)
    return {
        "params": count_params(network),
        "macs": int(network_totals(network, example).macs),
        "file_bytes": (folder / "model.safetensors").stat().st_size,
    }


def write_reports(
    folder: Path, facts: Facts, networks: Mapping[str, Mapping[str, float]], subject: str
) -> dict[str, Any]:
    """Writes layers.csv, spectra.csv, plots/*.csv and figures/*.png in `folder`; returns the
    value of metrics.json.

    networks: {"dense" | "compressed" | "fine_tuned": {measures of the task, params, macs,
    file_bytes}}; subject: "ResNet on digits", for titles.
    """
    metrics = headline(networks, facts.layers) | {"spectra": spectral_headline(facts)}
    metrics["output_error"] = output_errors(facts.bounds)
    if facts.refit is not None:
        metrics["refit"] = facts.refit
    rows = plot_rows(facts)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "layers.csv", layer_rows(facts), LAYER_COLUMNS)
    write_csv(folder / "spectra.csv", spectral_rows(facts), SPECTRA_COLUMNS)
    write_plots(folder / "plots", rows)
    write_figures(folder / "figures", facts, rows, metrics, subject)
    return metrics
