"""Calibration data in two parts: one for statistics, and one that no statistic has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.data.files import load_split
from pipeline.data.splits import Split


def statistics_batches(data: Path, batch_size: int, *, most: int | None = None) -> list[Any]:
    """The split "calibration" in batches as the model takes them.

    most: examples at most; None takes all.
    """
    return _batches(load_split(data, "calibration"), batch_size, most)


def held_out_batches(data: Path, batch_size: int, *, most: int) -> list[Any]:
    """The split "held_out" in batches as the model takes them, at most `most` examples."""
    return _batches(load_split(data, "held_out"), batch_size, most)


def all_calibration(data: Path) -> Split:
    """Both parts together, the held-out one last."""
    return load_split(data, "calibration").followed_by(load_split(data, "held_out"))


def _batches(split: Split, batch_size: int, most: int | None) -> list[Any]:
    stop = len(split) if most is None else min(most, len(split))
    return [
        split.batch(slice(first, min(first + batch_size, stop)))[0]
        for first in range(0, stop, batch_size)
    ]
