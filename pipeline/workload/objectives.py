"""What a training minimises: the labels' cross-entropy, or that and a teacher's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from pipeline.workload.devices import lay_out
from pipeline.workload.splits import Split

_CACHE_BYTES = 256 * 2**20
_TEACHER_BATCH = 500


class Batch(NamedTuple):
    """inputs (n, …) and labels (n,) on the device; examples (n,): which examples of the split
    they are."""

    inputs: Tensor
    labels: Tensor
    examples: Tensor


# (network, batch) → the scalar to minimise.
Objective = Callable[[Callable[[Tensor], Tensor], Batch], Tensor]


def cross_entropy(label_smoothing: float) -> Objective:
    """Mean cross-entropy with the labels, in nats."""

    def objective(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        logits = network(batch.inputs)
        return functional.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)

    return objective


class Teacher:
    """A trained network's logits for batches of `training`; eval mode, no gradients.

    Where nothing is augmented an example's logits are always the same: they are computed once,
    if all of them together fit 256 MiB.
    """

    def __init__(self, network: nn.Module, training: Split, fabric: Fabric, augment: str) -> None:
        self._network = network.eval().requires_grad_(False).to(fabric.device)
        lay_out(self._network, torch.channels_last)
        self._fabric = fabric
        self._cache = self._answers(training) if augment == "none" else None

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """(n, classes)"""
        if self._cache is not None:
            return self._cache[batch.examples].to(self._fabric.device)
        return self._answer(batch.inputs)

    def _answer(self, inputs: Tensor) -> Tensor:
        with self._fabric.autocast():
            logits: Tensor = self._network(inputs)
        return logits.float()

    @torch.no_grad()
    def _answers(self, training: Split) -> Tensor | None:
        answers = []
        for part in torch.split(torch.arange(len(training)), _TEACHER_BATCH):
            answers.append(self._answer(training.batch(part)[0].to(self._fabric.device)).cpu())
            if answers[0][0].nbytes * len(training) > _CACHE_BYTES:
                return None
        return torch.cat(answers)


def distillation(
    teacher: Teacher, *, temperature: float, weight: float, label_smoothing: float
) -> Objective:
    """(1 − w)·CE(labels) + w·T²·KL(teacher ‖ student), both softened by T (Hinton et al. 2015).

    T² keeps the gradient's size when T changes. `weight` in [0, 1], `temperature` above 0.
    """

    def objective(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        logits = network(batch.inputs)
        hard = functional.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
        soft = functional.kl_div(
            (logits / temperature).log_softmax(1),
            (teacher.logits(batch) / temperature).log_softmax(1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - weight) * hard + weight * temperature**2 * soft

    return objective
