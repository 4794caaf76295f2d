"""Quality of one network on one split, in the measures of its task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.files import example_input
from pipeline.data.splits import Split, moved, tensors
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import call
from pipeline.lowrank.tasks import Task
from pipeline.lowrank.tasks.base import Examples, ExampleScores

_MOST_TOKENS = 1024  # of one forward pass: the logits of a large vocabulary are 0.2 MB a token


def evaluate_quality(
    model: nn.Module, split: Split, task: Task, batch_size: int, dense: nn.Module | None = None
) -> dict[str, float]:
    """{measure: value} of all examples; see `Task.quality`. dense: the network that measures may
    compare with, by default the model itself.

    Runs in eval mode on the model's own device and restores the mode; sums are float64.
    """
    scores = split_scores(model, split, task, batch_size)
    others = scores if dense is None else split_scores(dense, split, task, batch_size)
    return task.quality(scores, others)


def split_scores(
    model: nn.Module, split: Split, task: Task, batch_size: int
) -> list[ExampleScores]:
    """The task's scores of all examples of a split, batch by batch; its measures are made of
    them."""
    return list(_scores(model, split, torch.arange(len(split)), task, batch_size))


def joined(scores: list[ExampleScores]) -> ExampleScores:
    """The batches' scores as one batch's."""
    return {key: torch.cat([part[key] for part in scores]) for key in scores[0]}


def progress_sums(
    model: nn.Module,
    split: Split,
    chosen: Tensor,
    task: Task,
    batch_size: int,
    dense: ExampleScores | None = None,
) -> tuple[float, float]:
    """(the watched measure, the loss) of the chosen examples, summed over them.

    dense: of all examples of the split, the dense network's scores; they are needed where examples
    have no labels. Raises LowRankError where they are missing.
    """
    if task.labels is None and dense is None:
        raise LowRankError(
            f"this data has no labels, as the task {task.name}: there is no loss to train on; "
            "choose baseline=pretrained, and fine_tune.objective=distill"
        )
    if not len(chosen):
        return 0.0, 0.0
    scores = list(_scores(model, split, chosen, task, batch_size))
    return task.progress(scores, dense and {key: rows[chosen] for key, rows in dense.items()})


def _scores(
    model: nn.Module, split: Split, chosen: Tensor, task: Task, batch_size: int
) -> Iterator[ExampleScores]:
    """Batch by batch, in eval mode and without gradients; a batch of tokens is cut to what fits
    the memory."""
    if batch_size < 1:
        raise LowRankError(f"batch_size={batch_size}: give at least 1")
    if task.inputs == "tokens":
        batch_size = max(1, min(batch_size, _MOST_TOKENS // tensors(split.stored)[0].shape[1]))
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for part in torch.split(chosen, batch_size):
                inputs, labels = split.batch(part)
                answer = call(model, moved(inputs, reference.device, reference.dtype))
                there: Any = labels if labels is None else moved(labels, reference.device)
                yield task.scores(answer, there)
    finally:
        model.train(training)


def check_fit(model: nn.Module, examples: Examples, task: Task) -> None:
    """Raises LowRankError unless the model maps one of the examples to what the task predicts, and
    an input of zeros to finite values."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = call(model, example_input(examples, task))
    except (RuntimeError, IndexError) as error:
        raise LowRankError(
            f"the model doesn't take the data {examples.name}, examples of shape "
            f"{list(examples.shape)}: {str(error).splitlines()[0]}; correct the arguments of the "
            "model section"
        ) from error
    finally:
        model.train(training)
    if problem := task.misfit(output, examples):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise LowRankError(f"the model gives {got} for one example, {problem}")
    if not math.isfinite(float(output.double().sum())):
        raise LowRankError(
            "the model gives NaN or Inf for an input of zeros; its weights are damaged"
        )
