"""Regression: numbers for each example: one, several, or a map of them."""

from __future__ import annotations

from pipeline.lowrank.tasks.gaussian import Values


class Regression(Values):
    """The network gives numbers (N,), (N, K) or a dense map (N, C, H, W); the labels have as many.
    The loss is the mean squared error, the divergence that of normal distributions (`Gaussian`)."""

    name = "regression"
    labels = "value"
