"""Intervals of means, by resampling examples."""

from __future__ import annotations

import torch
from torch import Tensor

_RESAMPLES = 2000


def bootstrap(values: Tensor) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the mean of `values` (N,) resampled with replacement, seeded;
    as scipy.stats.bootstrap with method="percentile"."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
    means = values[chosen].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high
