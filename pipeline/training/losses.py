"""The objectives of a training: the loss with the labels, or that and a teacher's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.data.splits import Split, moved
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.running import lay_out
from pipeline.lowrank.network.blocks import BlockOutputs
from pipeline.lowrank.network.calling import call, padding_mask
from pipeline.lowrank.tasks import Given, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_CACHE_BYTES = 256 * 2**20
_TEACHER_BATCH = 500


class Batch(NamedTuple):
    """inputs (n, …) and labels (n, …) on the device, each a tensor or {name: tensor}; labels None
    where there are none; examples (n,): which examples of the split they are."""

    inputs: Any
    labels: Any
    examples: Tensor


# objective(network, batch) is the scalar to minimise.
Objective = Callable[[Callable[[Any], Any], Batch], Tensor]


def label_loss(task: Task, label_smoothing: float) -> Objective:
    """The task's mean loss with the labels."""

    def objective(network: Callable[[Any], Any], batch: Batch) -> Tensor:
        return task.loss(network(batch.inputs), _target(task, batch), label_smoothing)

    return objective


def _whole(output: Any) -> Tensor:
    found: Tensor = output
    return found


class Teacher:
    """A trained network's answers to batches of `training`; eval mode, no gradients.

    Where nothing is augmented an example's answer is always the same: they are computed once,
    if all of them together fit 256 MiB and `keep` allows it. `read` takes the tensor that is kept
    out of the network's output.
    """

    def __init__(
        self,
        network: nn.Module,
        training: Split,
        fabric: Fabric,
        augment: str,
        *,
        keep: bool = True,
        read: Callable[[Any], Tensor] = _whole,
    ) -> None:
        self._read = read
        self._network = network.eval().requires_grad_(False).to(fabric.device)
        lay_out(self._network, torch.channels_last)
        self._fabric = fabric
        self._cache = self._all(training) if keep and augment == "none" else None

    @torch.no_grad()
    def answers(self, batch: Batch) -> Tensor:
        """The teacher's predictions for the batch, (n, …) float32."""
        if self._cache is not None:
            return self._cache[batch.examples].to(self._fabric.device)
        return self._answer(batch.inputs)

    def _answer(self, inputs: Any) -> Tensor:
        with self._fabric.autocast():
            output = call(self._network, inputs)
        return self._read(output).float()

    @torch.no_grad()
    def _all(self, training: Split) -> Tensor | None:
        def answer(chosen: Tensor) -> Tensor:
            return self._answer(moved(training.batch(chosen)[0], self._fabric.device)).cpu()

        everything = torch.arange(len(training))
        if answer(everything[:1]).nbytes * len(training) > _CACHE_BYTES:
            return None
        return torch.cat([answer(part) for part in torch.split(everything, _TEACHER_BATCH)])


def distillation(
    task: Task, teacher: Teacher, *, temperature: float, weight: float, label_smoothing: float
) -> Objective:
    """(1 − w)·loss with the labels + w·distance to the teacher's answers, as the task defines both
    (Hinton et al. 2015); for examples without labels the distance alone. `weight` w in [0, 1],
    `temperature` above 0."""

    def objective(network: Callable[[Any], Any], batch: Batch) -> Tensor:
        output = network(batch.inputs)
        soft = task.distillation(task.prediction(output), teacher.answers(batch), temperature)
        if weight == 1 or not task.supervised:
            return soft
        hard = task.loss(output, _target(task, batch), label_smoothing)
        return (1 - weight) * hard + weight * soft

    return objective


def with_states(
    objective: Objective, student: BlockOutputs, teacher: BlockOutputs, weight: float
) -> Objective:
    """`objective`, in which both networks run, plus weight times the mean over the blocks of
    ‖h − h'‖²/‖h‖², where h is the teacher's state after a block and h' the student's, both
    without the padding of a batch of tokens (Romero et al. 2015; Sun et al. 2019)."""

    def summed(network: Callable[[Any], Any], batch: Batch) -> Tensor:
        loss = objective(network, batch)
        pairs = list(zip(student.take(), teacher.take(), strict=True))
        errors = [_relative_square(found, state, batch.inputs) for found, state in pairs]
        return loss + weight * torch.stack(errors).mean()

    return summed


def _target(task: Task, batch: Batch) -> Any:
    """What the task's loss compares the network's output with."""
    return task.target(Given(batch.inputs, batch.labels, padding_mask(batch.inputs)))


def _relative_square(found: Tensor, state: Tensor, inputs: Any) -> Tensor:
    if found.shape != state.shape:
        raise LowRankError(
            f"states of the shape {list(found.shape)} cannot be compared with the dense network's "
            f"{list(state.shape)}: the channels between blocks were narrowed; set "
            "fine_tune.states_weight=0"
        )
    text = padding_mask(inputs)
    if text is not None and text.shape == state.shape[: text.dim()]:
        found, state = found[text], state[text]
    return (found - state).float().square().sum() / state.float().square().sum()
