"""A task in one file, as a user would write it: a value for each example, with Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.lowrank.tasks import TASKS, Task
from pipeline.lowrank.tasks.base import Examples, ExampleScores
from pipeline.lowrank.tasks.measure import Measure

_ERROR = Measure("squared_error", "squared error", "minimize", "", "four digits")


class Toy(Task):
    """The network gives one value an example, (N, 1). The divergence is ½(f − f')², that of two
    normal distributions of variance 1 in nats; the sampled loss is z·f with z normal."""

    name = "toy"
    unit = "nats per example"
    inputs = "values"
    labels = "value"
    measures = (_ERROR,)
    watched = _ERROR

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        rows: Tensor = output
        return rows

    def normalised(self, rows: Tensor) -> Tensor:
        return rows.float()

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return (dense - other).square().sum() / 2

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return (torch.randn(rows.shape, generator=generator).to(rows) * rows).sum()

    def misfit(self, output: Any, examples: Examples) -> str | None:
        fits = isinstance(output, Tensor) and tuple(output.shape) == (1, 1)
        return None if fits else "it must give one value, [1, 1]"

    def prediction(self, output: Any) -> Tensor:
        found: Tensor = output
        return found

    def loss(self, output: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        return (output[:, 0] - labels).square().mean() / 2

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        return (output - dense).square().mean() / 2

    def scores(self, output: Tensor, labels: Tensor) -> ExampleScores:
        return {"square": (output[:, 0].double() - labels.double()).square()}

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        total = sum(float(part["square"].sum()) for part in scores)
        return total, total / 2

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        return {"squared_error": float(torch.cat([part["square"] for part in scores]).mean())}


TASKS.setdefault(Toy.name, Toy())
