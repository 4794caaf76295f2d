"""reports/: metrics.json's content, the tables of layers and of spectra, the rows of the plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.data.splits import moved
from pipeline.lowrank.forms.shards import weight_files
from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.lowrank.tasks.measure import Measure
from pipeline.lowrank.typed import save_record
from pipeline.reporting.run import layers
from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.metrics import Metrics, Network, Size, make_metrics
from pipeline.reporting.run.plot_rows import (
    bound_rows,
    energy_rows,
    error_rows,
    fine_tune_rows,
    network_bound_rows,
    rank_rows,
    spectra_rows,
)
from pipeline.reporting.run.rows import PlotRows, write_csv, write_plots
from pipeline.reporting.run.spectral import (
    SpectralRow,
    spectral_figures,
    spectral_rows,
    training_rows,
    weight_rows,
)


def network_size(network: nn.Module, folder: Path, example: Any) -> Size:
    """Counted on the network that loads from `folder`, so that nothing is taken from the plan;
    example: a batch of one."""
    reference = next(network.parameters())
    example = moved(example, reference.device, reference.dtype)
    return Size(
        params=count_params(network),
        macs=int(network_totals(network, example).macs),
        file_bytes=sum(path.stat().st_size for path in weight_files(folder)),
    )


def write_reports(
    folder: Path,
    facts: Facts,
    networks: Mapping[str, Network],
    measures: Sequence[Measure] = (),
) -> Metrics:
    """Writes layers.json and layers.csv, spectra.csv and plots/*.csv in `folder`; returns what
    metrics.json is to hold.

    networks: by the names in NETWORKS; measures: those of the task.
    """
    metrics = make_metrics(facts, networks, spectral_figures(facts), measures)
    table = layers.layer_table(facts)
    save_record(folder / layers.FILE, table)
    write_csv(folder / "layers.csv", table.layers, layers.LayerRow)
    write_csv(folder / "spectra.csv", spectral_rows(facts), SpectralRow)
    write_plots(folder / "plots", plot_rows(facts))
    return metrics


def plot_rows(facts: Facts) -> PlotRows:
    """The rows of every plot."""
    return PlotRows(
        spectra=spectra_rows(facts),
        energy=energy_rows(facts),
        ranks=rank_rows(facts),
        errors=error_rows(facts),
        bounds=bound_rows(facts),
        network_bounds=network_bound_rows(facts),
        fine_tune=fine_tune_rows(facts.fine_tune),
        weights=weight_rows(facts),
        training=training_rows(facts),
        descent=facts.fine_tune.descent,
    )
