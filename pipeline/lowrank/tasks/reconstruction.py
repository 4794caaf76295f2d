"""Reconstruction: an autoencoder gives its input again, which is its own label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.base import Examples, Given
from pipeline.lowrank.tasks.gaussian import Values


class Reconstruction(Values):
    """The network reads values (N, …) and gives as many numbers, which should be the same. The
    loss is the mean squared error, the divergence that of normal distributions (`Gaussian`)."""

    name = "reconstruction"
    inputs = "values"
    labels = "input"

    def unlabelled(self) -> Reconstruction:
        return self

    def target(self, given: Given) -> Any:
        if isinstance(given.inputs, Mapping):
            raise LowRankError(
                f"the task reconstruction: the network reads {', '.join(given.inputs)}, and only a "
                "single input can be what it gives again; take the task custom"
            )
        return given.inputs

    def wanted(self, examples: Examples) -> tuple[int, ...] | None:
        return None if isinstance(examples.shape, dict) else examples.shape
