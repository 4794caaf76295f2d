"""Intervals of means, by resampling examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

_RESAMPLES = 2000
_TOGETHER = 100  # resamples at a time: a long test split would need much memory else


def bootstrap(values: Tensor) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the mean of `values` (N,), resampled with replacement."""
    return bootstrap_ratio(values, values.new_ones(len(values)))


def bootstrap_ratio(sums: Tensor, counts: Tensor) -> tuple[float, float]:
    """The same of Σ sums / Σ counts (N,), pairs being resampled together, seeded; the value itself
    where one example alone leaves nothing to resample."""
    from scipy import stats

    def ratio(sums: Any, counts: Any, axis: int = -1) -> Any:
        return sums.sum(axis) / np.maximum(counts.sum(axis), 1)

    pairs = (sums.double().cpu().numpy(), counts.double().cpu().numpy())
    if len(sums) < 2:
        return float(ratio(*pairs)), float(ratio(*pairs))
    found = stats.bootstrap(
        pairs,
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_TOGETHER,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
