"""Quality without labels: how far a network agrees with the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Given, Task
from pipeline.lowrank.tasks.measure import AGREEMENT, DIVERGENCE


def no_labels(task: str) -> LowRankError:
    """That there is no loss to train on."""
    return LowRankError(
        f"this data has no labels for the task {task}: there is no loss to train on; choose "
        "baseline=pretrained or baseline=checkpoint, and fine_tune.objective=distill, or "
        "fine_tune=none"
    )


class Agreement(Task):
    """A task that predicts categories, for examples without labels: the share of predictions that
    are the dense network's, and the divergence from it."""

    labels = None

    def __init__(self, task: Task) -> None:
        """task: of categories, one whose predictions can agree (`Task.agree`)."""
        super().__init__(output=task.output)
        self.task = task
        self.name, self.unit, self.inputs = task.name, task.unit, task.inputs
        apart = replace(DIVERGENCE, unit=self.unit)
        self.measures, self.watched = (AGREEMENT, apart), AGREEMENT

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return self.task.rows(output, mask)

    def fitted(self, outputs: Iterable[Any]) -> Task:
        return self

    def mask(self, given: Given) -> Tensor | None:
        return self.task.mask(given)

    def normalised(self, rows: Tensor) -> Tensor:
        return self.task.normalised(rows)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return self.task.divergence(dense, other)

    def agree(self, dense: Tensor, other: Tensor) -> Tensor | None:
        return self.task.agree(dense, other)

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return self.task.sampled_loss(rows, generator)

    def prediction(self, output: Any) -> Tensor:
        return self.task.prediction(output)

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        return self.task.distillation(output, dense, temperature)

    def misfit(self, output: Any, examples: Examples) -> str | None:
        try:
            self.prediction(output)
        except LowRankError as error:
            return str(error)
        return None

    def target(self, given: Given) -> Any:
        """(the dense network's output, which of its positions count)."""
        return None if given.dense is None else (given.dense, self.mask(given))

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        raise no_labels(self.name)

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        """The means over the units of the batch, for each of its examples alike."""
        dense_output, mask = labels
        other, dense = (self.normalised(self.rows(o, mask)) for o in (output, dense_output))
        agreeing = self.agree(dense, other)
        assert agreeing is not None, "a task of categories"
        same = agreeing.double().mean()
        apart = self.divergence(dense, other).double() / len(dense)
        count = len(self.prediction(output))
        return {"agreement": same.expand(count).cpu(), "divergence": apart.expand(count).cpu()}

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        same, apart = (
            sum(float(one[key].sum()) for one in scores) for key in ("agreement", "divergence")
        )
        return same, apart

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """`agreement`, the share of predictions that are the dense network's, and `divergence`
        from it, the mean over the units."""
        return {
            key: float(torch.cat([one[key] for one in scores]).mean())
            for key in ("agreement", "divergence")
        }
