"""Multi-label classification: yes or no for each of several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.agreement import Agreement, no_labels
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Task
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS, Measure
from pipeline.lowrank.tasks.metrics import gather, measured
from pipeline.lowrank.tasks.outputs import TASKS_PAGE, one_tensor

_PRECISION = Measure("average_precision", "mean average precision", "maximize", "%", "percent")
_F1 = Measure("f1", "F1, mean of labels", "maximize", "%", "percent")


class Multilabel(Task):
    """The network gives a logit for each label, (N, K) or (N,), of independent Bernoulli
    variables. The divergence is their summed KL(dense ‖ other); the sampled loss is the summed
    cross-entropy with answers drawn from the prediction itself."""

    name = "multilabel"
    unit = "nats per example"
    inputs = "any"
    labels = "classes"
    measures = (_PRECISION, _F1, ACCURACY, LOSS)
    watched = ACCURACY

    def prediction(self, output: Any) -> Tensor:
        found = one_tensor(
            self.selected(output),
            self.name,
            "let it give logits (N, labels), or name them: output=…",
        )
        if found.dim() > 2:
            raise LowRankError(
                f"the task multilabel reads logits (N, labels); the network gives "
                f"{list(found.shape)}: a class at each position is the task segmentation; "
                f"{TASKS_PAGE}"
            )
        return found[:, None] if found.dim() == 1 else found

    def agree(self, dense: Tensor, other: Tensor) -> Tensor:
        return (dense > 0) == (other > 0)

    def unlabelled(self) -> Task:
        return Agreement(self)

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return self.prediction(output)

    def normalised(self, rows: Tensor) -> Tensor:
        return rows.float()

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        parts = [
            functional.kl_div(
                functional.logsigmoid(sign * other),
                functional.logsigmoid(sign * dense),
                log_target=True,
                reduction="sum",
            )
            for sign in (1, -1)
        ]
        return parts[0] + parts[1]

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            probabilities = rows.float().sigmoid().cpu()
            answers = torch.bernoulli(probabilities, generator=generator).to(rows.device)
        return functional.binary_cross_entropy_with_logits(rows.float(), answers, reduction="sum")

    def misfit(self, output: Any, examples: Examples) -> str | None:
        wanted = examples.label_shape
        try:
            shape = tuple(self.prediction(output).shape)
        except LowRankError:
            shape = ()
        if len(shape) == 2 and shape[0] == 1 and wanted in (None, shape[1:], shape[2:]):
            return None
        return f"it must give a logit for each label, [1, {(wanted or ('labels',))[0]}]"  # type: ignore[index]

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        """The mean over examples and labels."""
        logits, answers = self._pairs(output, labels)
        answers = answers * (1 - label_smoothing) + label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, answers)

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        """T²·KL(dense ‖ output) of the labels, softened by T, the mean over examples."""
        apart = self.divergence(dense / temperature, output / temperature)
        return temperature**2 * apart / len(output)

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

        logits, answers = self._pairs(output, labels)
        losses = functional.binary_cross_entropy_with_logits(
            logits.double(), answers.double(), reduction="none"
        )
        count, whole = logits.shape[1], answers.long()
        return {
            "accuracy": ((logits > 0) == (answers > 0.5)).double().mean(1),
            "loss": losses.mean(1),
            "f1": gather(MultilabelF1Score(count), logits.sigmoid(), whole),
            "average_precision": gather(MultilabelAveragePrecision(count), logits.sigmoid(), whole),
        }

    def _pairs(self, output: Any, labels: Any) -> tuple[Tensor, Tensor]:
        if labels is None:
            raise no_labels(self.name)
        logits = self.prediction(output)
        answers = labels.to(logits.dtype).reshape(len(logits), -1)
        if answers.shape != logits.shape:
            raise LowRankError(
                f"the task multilabel: the network gives {logits.shape[1]} logits an example, and "
                f"there are {answers.shape[1]} labels; give a logit for each"
            )
        return logits, answers

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        right, loss = (sum(float(one[key].sum()) for one in scores) for key in ("accuracy", "loss"))
        return right, loss

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """average_precision and f1 (means over the labels), accuracy (the share of right answers),
        loss (nats a label)."""
        return measured(scores, [measure.name for measure in self.measures])
