"""Calibration data in two parts: one for statistics, one that no statistic has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.workload.data import load_split


def statistics_batches(data: Path, batch_size: int, holdout: float) -> list[Any]:
    """The calibration split but for its last `holdout` fraction, as batches for the model."""
    return _batches(data, batch_size, slice(0, _kept(data, holdout)))


def held_out_batches(data: Path, batch_size: int, holdout: float, *, most: int) -> list[Any]:
    """Up to `most` examples of the last `holdout` fraction of the calibration split."""
    kept = _kept(data, holdout)
    return _batches(data, batch_size, slice(kept, kept + most))


def _kept(data: Path, holdout: float) -> int:
    count = len(load_split(data, "calibration"))
    return count - round(holdout * count)


def _batches(data: Path, batch_size: int, chosen: slice) -> list[Any]:
    split = load_split(data, "calibration")
    start, stop, _ = chosen.indices(len(split))
    return [
        split.batch(slice(first, min(first + batch_size, stop)))[0]
        for first in range(start, stop, batch_size)
    ]
