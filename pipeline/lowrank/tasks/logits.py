"""The part that all tasks share which predict one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.agreement import Agreement
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Task
from pipeline.lowrank.tasks.measure import ACCURACY
from pipeline.lowrank.tasks.outputs import TASKS_PAGE, described, part


class Logits(Task):
    """Predictions are logits, of which a constant a row means nothing. The divergence is KL(dense ‖
    other) in nats, as torch.nn.functional.kl_div; the sampled loss is the cross-entropy with labels
    drawn from the prediction itself."""

    watched = ACCURACY

    def normalised(self, rows: Tensor) -> Tensor:
        return rows.float().log_softmax(-1)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return functional.kl_div(other, dense, log_target=True, reduction="sum")

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            probabilities = rows.float().softmax(-1).cpu()
            labels = torch.multinomial(probabilities, 1, generator=generator).flatten()
        return functional.cross_entropy(rows.float(), labels.to(rows.device), reduction="sum")

    def agree(self, dense: Tensor, other: Tensor) -> Tensor:
        return dense.argmax(-1) == other.argmax(-1)

    def unlabelled(self) -> Task:
        return Agreement(self)

    def prediction(self, output: Any) -> Tensor:
        return logits_of(self.selected(output), self.name)

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        logits = self.prediction(output)
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        """T²·KL(dense ‖ output), both softened by T (Hinton et al. 2015): T² keeps the gradient's
        size when T changes."""
        student, teacher = (
            (rows_of(logits) / temperature).log_softmax(-1) for logits in (output, dense)
        )
        soft = functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
        return temperature**2 * soft


class OneClass(Logits):
    """A task with one label for each example: accuracy and mean cross-entropy."""

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(self.prediction(output))

    def misfit(self, output: Any, examples: Examples) -> str | None:
        count = examples.classes
        found = self.selected(output)
        logits = found if isinstance(found, Tensor) else part(found, "logits")
        if isinstance(logits, Tensor) and tuple(logits.shape) == (1, count):
            return None
        return (
            f"the data {examples.name} has {count} classes: it must give [1, {count}]; set the "
            f"model's number of classes to {count}"
        )

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        logits = self.prediction(output)
        losses = functional.cross_entropy(logits.double(), labels, reduction="none")
        return {"right": (logits.argmax(1) == labels).double(), "loss": losses}

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        right = sum(float(one["right"].sum()) for one in scores)
        return right, sum(float(_sum(one["loss"])) for one in scores)

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        count = sum(len(one["loss"]) for one in scores)
        right, loss = self.progress(scores)
        return {"accuracy": right / count, "loss": loss / count}


def _sum(losses: Tensor) -> Tensor:
    """(n,) → their sum, added in the order of cross_entropy(reduction="sum"): figures then equal
    torch's own to the last bit."""
    nothing = torch.zeros(len(losses), dtype=torch.int64, device=losses.device)
    return functional.nll_loss(-losses[:, None], nothing, reduction="sum")


def logits_of(output: Any, task: str) -> Tensor:
    """(N, classes, …) logits of a network's output. A tensor, and the first matrix of a tuple, has
    its classes in dimension 1, as torch's cross-entropy reads it; `logits`, the entry of a dict or
    the attribute of an object of transformers, have them last; the entry `out` of a dict, of
    torchvision's networks, is a tensor as above.

    Raises LowRankError for another output, and for a single number an example.
    """
    found = _found(output)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise LowRankError(
            f"the network gives {described(output)}, which has no logits for the task {task}: let "
            "it give a tensor (N, classes, …), name the part that has them with output=…, or "
            f"choose the task that suits it; {TASKS_PAGE}"
        )
    if found.dim() < 2 or found.shape[1] < 2:
        raise LowRankError(
            f"the network gives {list(found.shape)}, and a class of the task {task} is one of two "
            "logits or more (N, classes, …): choose the task regression for a number an example, "
            f"or multilabel where it is the logit of yes or no; {TASKS_PAGE}"
        )
    return found


def _found(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list):
        return next((o for o in output if isinstance(o, Tensor) and o.dim() > 1), None)
    logits = part(output, "logits")
    if logits is None:
        return part(output, "out")
    return logits.movedim(-1, 1) if isinstance(logits, Tensor) and logits.dim() > 1 else logits


def rows_of(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """(N, classes, …) → (units, classes); classes last make the softmax of a large vocabulary fast.
    Where there is a prediction for each position of the mask, those that it marks false are left
    out."""
    rows = logits.movedim(1, -1).flatten(0, -2)
    return rows if mask is None or mask.numel() != len(rows) else rows[mask.flatten()]
