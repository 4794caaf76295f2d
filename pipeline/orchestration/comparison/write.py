"""Writes the comparison into the sweep's folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.orchestration.comparison.entries import read_comparison
from pipeline.orchestration.comparison.page import page
from pipeline.orchestration.comparison.pictures import draw_fronts, draw_ranks
from pipeline.orchestration.comparison.series import ranks_along_front
from pipeline.orchestration.sweep_tracking import log_to_sweep
from pipeline.workload.reporting.style import save_png

PAGE, FRONTS, RANKS = "comparison.html", "fronts.png", "ranks.png"


def write_comparison(folder: Path) -> list[Path]:
    """Writes the page, and the pictures when a job is done; returns the files.

    Raises LowRankError where `folder` is no sweep or a done job lacks a report.
    """
    comparison = read_comparison(folder)
    files = [folder / PAGE]
    files[0].write_text(page(comparison), encoding="utf-8")
    if comparison.compared:
        files += [folder / FRONTS, folder / RANKS]
        save_png(partial(draw_fronts, comparison), files[1])
        save_png(partial(draw_ranks, ranks_along_front(comparison)), files[2])
    return files


def publish_comparison(folder: Path, track: Mapping[str, Any], parent: str) -> str:
    """Writes the comparison and logs it to the sweep's MLflow run; returns one line for the end
    of the sweep. Results are there already: whatever fails here is told, not raised."""
    try:
        files = write_comparison(folder)
        log_to_sweep(track, parent, files)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        return f"comparison not written: {type(error).__name__}: {first}"
    return f"comparison {files[0]}"
