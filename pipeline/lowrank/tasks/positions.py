"""The part that all tasks share which predict a class at each position, some without a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.agreement import no_labels
from pipeline.lowrank.tasks.base import ExampleScores
from pipeline.lowrank.tasks.logits import Logits, rows_of
from pipeline.lowrank.tasks.metrics import measured

_NONE = -100  # no label, as torch's losses have it


class Positions(Logits):
    """The network gives logits (N, classes, …), a unit being a position. Labels (N, …) that are
    negative, or `ignore_index`, count nowhere."""

    ignore_index: int | None = None

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(self.prediction(output), mask)

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        logits, true = self.pairs(output, labels)
        return functional.cross_entropy(
            logits, true, ignore_index=_NONE, label_smoothing=label_smoothing
        )

    def pairs(self, output: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """(logits (N, classes, …), labels (N, …) with −100 where there is none). Raises
        LowRankError for other labels."""
        if labels is None:
            raise no_labels(self.name)
        logits = self.prediction(output)
        if labels.shape != logits.shape[:1] + logits.shape[2:]:
            raise LowRankError(
                f"the task {self.name}: the network gives {list(logits.shape)}, which asks for "
                f"labels {[logits.shape[0], *logits.shape[2:]]}, and they are {list(labels.shape)}"
            )
        none = labels < 0
        if self.ignore_index is not None:
            none |= labels == self.ignore_index
        true = labels.long().masked_fill(none, _NONE)
        if bool((true >= logits.shape[1]).any()):
            raise LowRankError(
                f"the task {self.name}: label {int(true.max())} where the network has "
                f"{logits.shape[1]} classes; correct the labels, or set task.ignore_index"
            )
        return logits, true

    def figures(self, logits: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Of each example: how many positions have a label, how many of these get the largest
        logit, and their summed cross-entropy in nats."""
        losses = functional.cross_entropy(
            logits.float(), true, ignore_index=_NONE, reduction="none"
        )
        right = (logits.argmax(1) == true).double()
        return {
            "right": right.flatten(1).sum(1),
            "loss": losses.double().flatten(1).sum(1),
            "positions": (true != _NONE).double().flatten(1).sum(1),
        }

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        """The means over the positions, once an example."""
        right, loss, positions = (
            sum(float(one[key].sum()) for one in scores) for key in ("right", "loss", "positions")
        )
        count = sum(len(one["loss"]) for one in scores)
        return right * count / max(positions, 1), loss * count / max(positions, 1)

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """accuracy and loss (nats) of the positions with a label; and what metrics gathered."""
        count = sum(len(one["loss"]) for one in scores)
        right, loss = self.progress(scores)
        known = {"right", "loss", "positions"}
        others = [name for name in scores[0] if name not in known]
        return {"accuracy": right / count, "loss": loss / count, **measured(scores, others)}


def joined(scores: Sequence[ExampleScores], key: str) -> Tensor:
    """One figure of all examples, on the CPU."""
    found: Tensor = torch.cat([one[key] for one in scores]).cpu()
    return found
