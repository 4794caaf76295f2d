"""Writes the comparison into the sweep's folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.reporting.sweep.entries import read_comparison
from pipeline.reporting.sweep.page import page

PAGE = "comparison.html"


def write_comparison(folder: Path) -> Path:
    """Writes the page; returns it. Raises LowRankError where `folder` is no sweep or a done job
    lacks a report."""
    path = folder / PAGE
    path.write_text(page(read_comparison(folder)), encoding="utf-8")
    return path
