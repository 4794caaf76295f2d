"""reports/: metrics.json's content, the tables of layers and of spectra, the plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.data.splits import moved
from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.lowrank.tasks.measure import Measure
from pipeline.lowrank.typed import save_record
from pipeline.reporting.run import layers
from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.figures import plot_rows, write_figures
from pipeline.reporting.run.metrics import Metrics, Network, Size, make_metrics
from pipeline.reporting.run.rows import write_csv, write_plots
from pipeline.reporting.run.spectral import SpectralRow, spectral_figures, spectral_rows


def network_size(network: nn.Module, folder: Path, example: Any) -> Size:
    """Counted on the network that loads from `folder`, so that nothing is taken from the plan;
    example: a batch of one."""
    reference = next(network.parameters())
    example = moved(example, reference.device, reference.dtype)
    return Size(
        params=count_params(network),
        macs=int(network_totals(network, example).macs),
        file_bytes=(folder / "model.safetensors").stat().st_size,
    )


def write_reports(
    folder: Path,
    facts: Facts,
    networks: Mapping[str, Network],
    subject: str,
    measures: Sequence[Measure] = (),
) -> Metrics:
    """Writes layers.json and layers.csv, spectra.csv, plots/*.csv and figures/*.png in `folder`;
    returns what metrics.json is to hold.

    networks: by the names in NETWORKS; subject: "ResNet on digits", for titles; measures: those of
    the task.
    """
    metrics = make_metrics(facts, networks, spectral_figures(facts), measures)
    rows, table, spectra = plot_rows(facts), layers.layer_table(facts), spectral_rows(facts)
    save_record(folder / layers.FILE, table)
    write_csv(folder / "layers.csv", table.layers, layers.LayerRow)
    write_csv(folder / "spectra.csv", spectra, SpectralRow)
    write_plots(folder / "plots", rows)
    write_figures(folder / "figures", facts, rows, spectra, metrics, subject)
    return metrics
