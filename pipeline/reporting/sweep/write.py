"""Writes the comparison into the sweep's folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.reporting.style import save_png
from pipeline.reporting.sweep.entries import read_comparison
from pipeline.reporting.sweep.page import page
from pipeline.reporting.sweep.pictures import draw_fronts, draw_ranks
from pipeline.reporting.sweep.series import ranks_along_front

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
