"""Calibration data in two parts: one for statistics, one that no statistic has seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from pipeline.data.files import load_split
from pipeline.data.splits import Split


def statistics_batches(
    data: Path, batch_size: int, holdout: float, *, most: int | None = None
) -> list[Any]:
    """The calibration split but for its last `holdout` fraction, as batches for the model; of
    these, up to `most` examples."""
    split = load_split(data, "calibration")
    kept = _kept(split, holdout)
    return _batches(split, batch_size, 0, kept if most is None else min(kept, most))


def held_out_batches(data: Path, batch_size: int, holdout: float, *, most: int) -> list[Any]:
    """Up to `most` examples of the last `holdout` fraction of the calibration split."""
    split = load_split(data, "calibration")
    kept = _kept(split, holdout)
    return _batches(split, batch_size, kept, min(kept + most, len(split)))


def evenly(batches: Sequence[Any], share: float) -> tuple[list[Any], list[Any]]:
    """(`share` of the batches, at least one and evenly spread; the others)."""
    chosen = [int((i + 1) * share) > int(i * share) for i in range(len(batches))]
    if not any(chosen):
        chosen[0] = True
    return list(compress(batches, chosen)), list(compress(batches, (not c for c in chosen)))


def _kept(split: Split, holdout: float) -> int:
    return len(split) - round(holdout * len(split))


def _batches(split: Split, batch_size: int, start: int, stop: int) -> list[Any]:
    return [
        split.batch(slice(first, min(first + batch_size, stop)))[0]
        for first in range(start, stop, batch_size)
    ]
