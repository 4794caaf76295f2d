"""Quality of a classifier on one split."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.workload.splits import Split


def evaluate_quality(model: nn.Module, split: Split, batch_size: int) -> dict[str, float]:
    """{"accuracy": fraction correct, "loss": mean cross-entropy in nats} of all examples.

    Runs in eval mode on the model's own device and restores the mode; sums are float64.
    """
    correct, loss = quality_sums(model, split, torch.arange(len(split)), batch_size)
    return {"accuracy": correct / len(split), "loss": loss / len(split)}


def quality_sums(
    model: nn.Module, split: Split, chosen: Tensor, batch_size: int
) -> tuple[float, float]:
    """(number correct, summed cross-entropy) over the chosen examples."""
    if batch_size < 1:
        raise LowRankError(f"batch_size={batch_size}: give at least 1")
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    correct, loss = 0.0, 0.0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for part in torch.split(chosen, batch_size):
                inputs, labels = split.batch(part)
                logits = model(inputs.to(reference.device, reference.dtype)).double()
                labels = labels.to(reference.device)
                loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
                correct += float((logits.argmax(1) == labels).sum())
    finally:
        model.train(training)
    return correct, loss


def check_fit(model: nn.Module, meta: dict[str, Any]) -> None:
    """Raises LowRankError unless the model maps the data's shape to one logit a class."""
    shape, classes = meta["input_shape"], meta["classes"]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *shape))
    except RuntimeError as error:
        raise LowRankError(
            f"the model doesn't take the data {meta['name']}, examples of shape {shape}: "
            f"{str(error).splitlines()[0]}; correct the arguments of the model section"
        ) from error
    finally:
        model.train(training)
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise LowRankError(
            f"the model gives {got} for one example, the data {meta['name']} has {classes} "
            f"classes: it must give [1, {classes}]; set the model's number of classes to {classes}"
        )
    if not math.isfinite(float(logits.double().sum())):
        raise LowRankError(
            "the model gives NaN or Inf for an input of zeros; its weights are damaged"
        )
