"""The data of DVC's plots (CSV) and the pictures drawn from it (PNG)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.figure_bounds import draw_bounds
from pipeline.reporting.run.figure_energy import draw_energy
from pipeline.reporting.run.figure_errors import draw_errors
from pipeline.reporting.run.figure_fine_tuning import draw_fine_tuning
from pipeline.reporting.run.figure_overview import draw_overview
from pipeline.reporting.run.figure_ranks import draw_ranks
from pipeline.reporting.run.figure_spectra import draw_spectra
from pipeline.reporting.run.figure_training import draw_training
from pipeline.reporting.run.figure_weights import draw_weights
from pipeline.reporting.run.numbers import Row
from pipeline.reporting.run.plot_rows import (
    bound_rows,
    energy_rows,
    error_rows,
    fine_tuning_rows,
    network_bound_rows,
    rank_rows,
    spectra_rows,
)
from pipeline.reporting.run.spectral import spectral_rows, training_rows, weight_rows
from pipeline.reporting.style import save_png

# Columns are fixed here, so that a file without rows still has its header.
COLUMNS = {
    "spectra": ("layer", "view", "index", "singular_value", "kept_rank"),
    "energy": ("layer", "view", "rank", "energy", "full_rank", "kept_rank"),
    "ranks": (
        "layer",
        "view",
        "method",
        "rank",
        "full_rank",
        "rank_fraction",
        "params_fraction",
        "macs_fraction",
    ),
    "errors": ("layer", "method", "predicted", "measured", "lower", "upper", "bound"),
    "bounds": ("layer", "theorem", "measured", "bound", "tightness"),
    "network_bounds": ("figure", "value", "certifies"),
    "fine_tuning": ("step", "epoch", "train_loss", "validation_loss", "validation_accuracy"),
    "weights": ("layer", "state", "index", "singular_value", "edge", "spike_edge"),
    "training": ("layer", "step", "effective_rank", "relative_rank"),
    "descent": (
        "step",
        "epoch",
        "subset_loss",
        "subset_gradient_squared_norm",
        "smoothness",
        "printed_false",
        "descent",
        "descent_sgd",
    ),
}


def plot_rows(facts: Facts) -> dict[str, list[Row]]:
    """The rows of every plot file, by its name without .csv."""
    return {
        "spectra": spectra_rows(facts),
        "energy": energy_rows(facts),
        "ranks": rank_rows(facts),
        "errors": error_rows(facts),
        "bounds": bound_rows(facts),
        "network_bounds": network_bound_rows(facts),
        "fine_tuning": fine_tuning_rows(facts.curve),
        "weights": weight_rows(facts),
        "training": training_rows(facts),
        "descent": facts.curve["descent"],
    }


def write_plots(folder: Path, rows: Mapping[str, Sequence[Row]]) -> None:
    """Writes folder/<name>.csv for every name of `plot_rows`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in COLUMNS.items():
        write_csv(folder / f"{name}.csv", rows[name], columns)


def write_figures(
    folder: Path,
    facts: Facts,
    rows: Mapping[str, Sequence[Row]],
    metrics: Mapping[str, Any],
    subject: str,
) -> None:
    """Writes folder/{spectra,energy,ranks,errors,bounds,fine_tuning,overview,weights}.png, and
    training.png where the initial weights are known.

    `subject` says what was compressed ("ResNet on digits"). The same input gives the same bytes
    with the same version of matplotlib.
    """
    params = {name: target["params"] for name, target in facts.analysis["targets"].items()}
    title = f"{subject}: {metrics['compression_ratio']:.1f} times fewer parameters"
    table = spectral_rows(facts)
    figures: dict[str, Callable[[], Figure]] = {
        "spectra": partial(draw_spectra, rows["spectra"], params, facts.analysis["metric"]),
        "energy": partial(draw_energy, rows["energy"], params),
        "ranks": partial(draw_ranks, rows["ranks"], params),
        "errors": partial(draw_errors, rows["errors"]),
        "fine_tuning": partial(
            draw_fine_tuning,
            rows["fine_tuning"],
            facts.baseline_curve,
            rows["descent"],
            facts.curve["measure"],
        ),
        "bounds": partial(
            draw_bounds, rows["bounds"], rows["network_bounds"], facts.bounds["network"]["reason"]
        ),
        "overview": partial(draw_overview, metrics, title),
        "weights": partial(draw_weights, rows["weights"], table),
    }
    if rows["training"]:
        figures["training"] = partial(draw_training, rows["training"], table)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        save_png(draw, folder / f"{name}.png")


def write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Nine digits a number, an empty cell for None, \\n at line ends on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[column]) for column in columns])


def _cell(value: object) -> object:
    return f"{value:.9g}" if isinstance(value, float) else value
