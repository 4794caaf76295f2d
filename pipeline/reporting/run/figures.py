"""The pictures of a run: figures/*.png, drawn from the rows of the plots."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.figure_bounds import draw_bounds
from pipeline.reporting.run.figure_energy import draw_energy
from pipeline.reporting.run.figure_errors import draw_errors
from pipeline.reporting.run.figure_fine_tune import draw_fine_tune
from pipeline.reporting.run.figure_overview import draw_overview
from pipeline.reporting.run.figure_ranks import draw_ranks
from pipeline.reporting.run.figure_spectra import draw_spectra
from pipeline.reporting.run.figure_training import draw_training
from pipeline.reporting.run.figure_weights import draw_weights
from pipeline.reporting.run.metrics import Metrics
from pipeline.reporting.run.plot_rows import (
    bound_rows,
    energy_rows,
    error_rows,
    fine_tune_rows,
    network_bound_rows,
    rank_rows,
    spectra_rows,
)
from pipeline.reporting.run.rows import PlotRows
from pipeline.reporting.run.spectral import SpectralRow, training_rows, weight_rows
from pipeline.reporting.style import save_png


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


def write_figures(
    folder: Path,
    facts: Facts,
    rows: PlotRows,
    table: list[SpectralRow],
    metrics: Metrics,
    subject: str,
) -> None:
    """Writes folder/{spectra,energy,ranks,errors,bounds,fine_tune,overview,weights}.png, and
    training.png where the initial weights are known.

    table: `spectral_rows`; `subject` says what was compressed ("ResNet on digits"). The same
    input gives the same bytes with the same version of matplotlib.
    """
    params = {name: float(target.params) for name, target in facts.analysis.targets.items()}
    title = f"{subject}: {metrics.compression_ratio:.1f} times fewer parameters"
    figures: dict[str, Callable[[], Figure]] = {
        "spectra": partial(draw_spectra, rows.spectra, params, facts.analysis.metric),
        "energy": partial(draw_energy, rows.energy, params),
        "ranks": partial(draw_ranks, rows.ranks, params),
        "errors": partial(draw_errors, rows.errors),
        "fine_tune": partial(
            draw_fine_tune,
            rows.fine_tune,
            facts.baseline,
            rows.descent,
            facts.fine_tune.measure,
        ),
        "bounds": partial(
            draw_bounds, rows.bounds, rows.network_bounds, facts.bounds.network.reason
        ),
        "overview": partial(draw_overview, metrics, title),
        "weights": partial(draw_weights, rows.weights, table),
    }
    if rows.training:
        figures["training"] = partial(draw_training, rows.training, table)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        save_png(draw, folder / f"{name}.png")
