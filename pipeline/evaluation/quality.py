"""Quality of one network on one split, in the measures of its task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.files import example_input
from pipeline.data.splits import Split, moved, tensors
from pipeline.lowrank.analysis.divergence import Apart, Distance, normalised
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import answer, padding_mask
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.tasks import Given, Task
from pipeline.lowrank.tasks.agreement import no_labels
from pipeline.lowrank.tasks.base import Examples, ExampleScores
from pipeline.lowrank.tasks.metrics import together
from pipeline.lowrank.tasks.outputs import described, leaves

_MOST_TOKENS = 1024  # of one forward pass: the logits of a large vocabulary are 0.2 MB a token


def evaluate_quality(
    model: nn.Module, split: Split, task: Task, batch_size: int, dense: nn.Module | None = None
) -> dict[str, float]:
    """{measure: value} of all examples; see `Task.quality`. dense: the network that measures may
    compare with, by default the model itself.

    Runs in eval mode on the model's own device and restores the mode; sums are float64.
    """
    scores = split_scores(model, split, task, batch_size, dense or model)
    others = scores if dense is None else split_scores(dense, split, task, batch_size, dense)
    return task.quality(scores, others)


def split_scores(
    model: nn.Module, split: Split, task: Task, batch_size: int, dense: nn.Module
) -> list[ExampleScores]:
    """The task's scores of all examples of a split, batch by batch; its measures are made of
    them. dense: what quality is measured against where examples have no labels."""
    return list(_scores(model, split, torch.arange(len(split)), task, batch_size, dense))


def side_by_side(
    networks: Sequence[nn.Module], split: Split, task: Task, batch_size: int
) -> list[tuple[list[ExampleScores], Distance]]:
    """For each network its scores of all examples, as `split_scores` gives them, and its distance
    from the first one. The networks, all of them on one device, take turns on each batch."""
    dense, *_ = networks
    parts = list(_parts(split, torch.arange(len(split)), batch_size))
    # Only a task of numbers looks at the outputs, which are computed as it does.
    fitted = task.fitted(_answer(dense, split.batch(part)[0])[0] for part in parts)
    scores: list[list[ExampleScores]] = [[] for _ in networks]
    apart = [Apart(fitted) for _ in networks]
    for part in steps(parts, "batches"):
        batch = split.batch(part)
        first, device = _answer(dense, batch[0])
        given = _given(batch, device, None if task.supervised else first)
        aim = normalised(fitted, first, given)
        for index, network in enumerate(networks):
            output = first if network is dense else _answer(network, batch[0])[0]
            with torch.no_grad():
                scores[index].append(task.scores(output, task.target(given)))
                apart[index].add(aim, normalised(fitted, output, given))
    return [(one, sums.distance()) for one, sums in zip(scores, apart, strict=True)]


def joined(scores: list[ExampleScores]) -> ExampleScores:
    """The batches' scores as one batch's."""
    return {key: together([part[key] for part in scores]) for key in scores[0]}


def progress_sums(
    model: nn.Module,
    split: Split,
    chosen: Tensor,
    task: Task,
    batch_size: int,
    dense: nn.Module | None = None,
) -> tuple[float, float]:
    """(the watched measure, the loss) of the chosen examples, summed over them.

    dense: the dense network, which is needed where examples have no labels. Raises LowRankError
    where it is missing.
    """
    if not task.supervised and dense is None:
        raise no_labels(task.name)
    if not len(chosen):
        return 0.0, 0.0
    return task.progress(list(_scores(model, split, chosen, task, batch_size, dense)))


def _scores(
    model: nn.Module,
    split: Split,
    chosen: Tensor,
    task: Task,
    batch_size: int,
    dense: nn.Module | None,
) -> Iterator[ExampleScores]:
    """Batch by batch, in eval mode and without gradients."""
    for part in _parts(split, chosen, batch_size):
        batch = split.batch(part)
        output, device = _answer(model, batch[0])
        compared = _answer(dense, batch[0])[0] if dense and not task.supervised else None
        with torch.no_grad():
            yield task.scores(output, task.target(_given(batch, device, compared)))


def _parts(split: Split, chosen: Tensor, batch_size: int) -> Sequence[Tensor]:
    """The chosen examples in batches; a batch of tokens is cut to what fits the memory."""
    if batch_size < 1:
        raise LowRankError(f"batch_size={batch_size}: give at least 1")
    longest = max((one.shape[1] for one in tensors(split.stored) if _is_text(one)), default=0)
    if longest:
        batch_size = max(1, min(batch_size, _MOST_TOKENS // longest))
    return torch.split(chosen, batch_size)


def _given(batch: tuple[Any, Any], device: torch.device, dense: Any) -> Given:
    """What is known of a batch, on the device of the output that it is compared with."""
    inputs, labels = batch
    there = moved(inputs, device)
    return Given(
        inputs=there,
        labels=labels if labels is None else moved(labels, device),
        padding=padding_mask(there),
        dense=dense,
    )


def _is_text(stored: Tensor) -> bool:
    return stored.dim() == 2 and stored.dtype == torch.int64


def _answer(model: nn.Module, inputs: Any) -> tuple[Any, torch.device]:
    """(the model's output, its device)."""
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return answer(model, moved(inputs, reference.device, reference.dtype)), reference.device


def check_fit(model: nn.Module, examples: Examples, task: Task) -> None:
    """Raises LowRankError unless the model maps one of the examples to what the task predicts, and
    an input of zeros to finite values."""
    try:
        output = answer(model, example_input(examples, task))
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        shape = examples.shape if isinstance(examples.shape, dict) else list(examples.shape)
        raise LowRankError(
            f"the model doesn't take the data {examples.name}, examples of shape {shape}: {first}; "
            "correct the arguments of the model section"
        ) from error
    if problem := task.misfit(output, examples):
        raise LowRankError(f"the model gives {described(output)} for one example, {problem}")
    if not all(math.isfinite(float(one.double().sum())) for one in leaves(output)):
        raise LowRankError(
            "the model gives NaN or Inf for an input of zeros; its weights are damaged"
        )
