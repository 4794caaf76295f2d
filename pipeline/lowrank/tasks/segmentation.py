"""Segmentation: a class at each position of an image, a series or a volume."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.base import Examples, ExampleScores
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS, Measure
from pipeline.lowrank.tasks.metrics import gather
from pipeline.lowrank.tasks.outputs import TASKS_PAGE, Selector
from pipeline.lowrank.tasks.positions import _NONE, Positions

_IOU = Measure("mean_iou", "mean IoU", "maximize", "%", "percent")


class Segmentation(Positions):
    """The network reads values (N, …) and gives logits (N, classes, H, W), or with one or three
    dimensions of positions; labels (N, H, W)."""

    name = "segmentation"
    unit = "nats per position"
    inputs = "values"
    labels = "class map"
    measures = (_IOU, ACCURACY, LOSS)

    def __init__(self, *, ignore_index: int | None = None, output: Selector | None = None) -> None:
        """ignore_index: the label that counts nowhere, as negative ones; None: no other."""
        super().__init__(output=output)
        self.ignore_index = ignore_index

    def prediction(self, output: Any) -> Tensor:
        found = super().prediction(output)
        if found.dim() < 3:
            raise LowRankError(
                f"the network gives {list(found.shape)}, and the task segmentation reads logits "
                "(N, classes, H, W): a class for each example is the task classification; "
                f"{TASKS_PAGE}"
            )
        return found

    def misfit(self, output: Any, examples: Examples) -> str | None:
        least, places = examples.classes or 2, examples.label_shape
        try:
            shape = tuple(self.prediction(output).shape)
        except LowRankError:
            shape = ()
        if shape[:1] == (1,) and shape[1] >= least and (places is None or shape[2:] == places):
            return None
        where = ", ".join(map(str, places)) if isinstance(places, tuple) else "height, width"
        return f"it must give [1, {least} or more classes, {where}]"

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        """For each example the figures of its positions; of the batch the confusion of classes."""
        from torchmetrics.classification import MulticlassJaccardIndex

        logits, true = self.pairs(output, labels)
        confusion = MulticlassJaccardIndex(logits.shape[1], ignore_index=_NONE)
        return {
            **self.figures(logits, true),
            "mean_iou": gather(confusion, logits.argmax(1), true),
        }
