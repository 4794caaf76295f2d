"""Collecting moments: sums in float64, streamed over calibration data by hooks on the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.memory import WIDEST, blocks_within
from pipeline.lowrank.analysis.moments import (
    Moments,
    Read,
    accumulate,
    check_sums,
    gram,
    steady_centre,
    widened,
)
from pipeline.lowrank.analysis.routing import StackSums
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.by_hand import reads_as
from pipeline.lowrank.network.calling import (
    answer,
    backward,
    call,
    evaluating,
    layer_input,
    padding_mask,
    with_gradients,
)
from pipeline.lowrank.network.kinds import LOOKUPS, kind_of
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.readings import Reading, Watch
from pipeline.lowrank.network.rows import input_rows, lookup_sums, output_rows
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.network.targets import dense_weight
from pipeline.lowrank.tasks import Classification, Given, Task


def collect_moments(
    model: nn.Module,
    batches: Sequence[Any],
    targets: Mapping[str, nn.Module],
    *,
    gradients: bool,
    task: Task | None = None,
    seed: int = 0,
    memory_limit: int = 8 << 30,
    further: Sequence[Any] = (),
) -> dict[str, Moments]:
    """Moments over the batches of all targets that they reach, in one pass where they fit into
    memory.

    batches: what the model takes (a tensor, a tuple or a dict). Where a dict holds an
        `attention_mask` (N, T), positions that it marks 0 are left out.
    gradients: whether to collect `outputs` too, by a backward pass of the sampled loss of `task`
        (default: `Classification()`, whose sampled loss is the cross-entropy with labels drawn from
        the model's own prediction: the true Fisher matrix, not the empirical one). Layers with more
        than 16,384 outputs get the diagonal alone; layers that no gradient reaches get None.
    seed: of the labels that are drawn.
    memory_limit: bytes for the sums and for the work on one of them; targets beyond it are
        collected in further passes.
    further: batches for the inputs' moments alone, at a third of the time. Inputs gain more by more
        data than gradients do, because they are damped less.

    Raises LowRankError when there is no batch; before the pass, when one target alone needs more
    than `memory_limit`; when no target is reached, or when an activation, an output or a gradient
    is NaN or Inf.
    """
    blocks = moments_by_block(
        model, batches, targets,
        gradients=gradients, task=task, seed=seed, memory_limit=memory_limit, further=further,
    )  # fmt: skip
    found = {name: one for block in blocks for name, one in block.items() if one is not None}
    if not found:
        name = next(iter(targets))
        raise LowRankError(
            f"layer {name!r} is not reached by the calibration data, nor is any other; give "
            "examples that the layers read"
        )
    return found


def moments_by_block(
    model: nn.Module,
    batches: Sequence[Any],
    targets: Mapping[str, nn.Module],
    *,
    gradients: bool,
    task: Task | None = None,
    seed: int = 0,
    memory_limit: int = 8 << 30,
    further: Sequence[Any] = (),
) -> Iterator[dict[str, Moments | None]]:
    """`collect_moments`, a pass over the batches at a time: the moments of as many of the targets,
    in their order, as fit into memory; None for one that no batch reaches.

    Nobody else holds what was given: who takes the moments out of it frees their memory before the
    next pass. The moments of a target are the same to the bit in whichever pass.
    """
    if not len(batches):
        raise LowRankError("the calibration set is empty: give at least one batch of examples")
    task = task or Classification()
    if gradients:
        task = task.fitted(answer(model, batch) for batch in batches)
    for block in blocks_within(targets, gradients, memory_limit):
        yield _Pass(model, block, gradients, task, seed).run(batches, further)


class _Pass:
    """One pass over the calibration data: hooks on a block of targets, sums in float64."""

    def __init__(
        self,
        model: nn.Module,
        targets: Mapping[str, nn.Module],
        gradients: bool,
        task: Task,
        seed: int,
    ) -> None:
        self.model, self.targets, self.gradients = model, targets, gradients
        self.task = task
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.centres: dict[str, Tensor | None] = {}
        self.positions: dict[str, int] = dict.fromkeys(targets, 0)
        self.stacks: dict[str, StackSums] = {}
        self.units = 0
        self.mask: Tensor | None = None
        self.latest: Read | None = None

    def run(self, batches: Sequence[Any], further: Sequence[Any]) -> dict[str, Moments | None]:
        # Without gradients of parameters the backward pass costs only what the activations need.
        with evaluating(self.model), with_gradients(self.model, False), self._hooked():
            for batch in steps(batches, "moments"):
                self._add(batch)
            self.gradients = False
            for batch in steps(further, "moments of inputs"):
                self._add(batch)
        found: dict[str, Moments | None] = dict.fromkeys(self.targets)
        found |= {name: sums.moments(name, self.units) for name, sums in self.stacks.items()}
        return found | {n: self._moments(n) for n in self.targets if self.positions[n]}

    def _add(self, batch: Any) -> None:
        self.mask = padding_mask(batch)
        with torch.set_grad_enabled(self.gradients):
            output = call(self.model, batch)
            if self.gradients:
                units = self.task.mask(Given(batch, padding=self.mask))
                rows = self.task.rows(output, units)
                self._check_outputs(rows)
                self.units += len(rows)
                loss = self.task.sampled_loss(rows, self.generator)
                if loss.requires_grad:
                    backward(loss)
        self.latest = None

    def _check_outputs(self, rows: Tensor) -> None:
        """Raises LowRankError for predictions that are no numbers; a single −∞ masks a class."""
        if torch.isfinite(rows.detach().amax(-1)).all():
            return
        for name, total in self.means.items():  # in the order in which they run
            check_sums(name, total)
        raise LowRankError(
            "the network's output holds NaN or Inf on the calibration data; check the data and the "
            "checkpoint"
        )

    def _moments(self, name: str) -> Moments:
        count, centre, covariance = self.positions[name], self.centres[name], None
        # In place: the sums of all targets would else be there twice.
        inputs, mean = self.inputs.pop(name).div_(count), self.means[name] / count
        outputs = self.outputs.pop(name, None)
        if centre is not None:
            off = mean - centre.double()
            covariance = inputs - off[:, :, None] * off[:, None, :]
            inputs = covariance + mean[:, :, None] * mean[:, None, :]
        outputs = None if outputs is None else outputs.div_(self.units)
        check_sums(name, inputs, outputs)
        return Moments(inputs, mean, outputs, count, covariance)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        watched = {n: m for n, m in self.targets.items() if kind_of(m) in ("linear", "stack")}
        layers = {n: m for n, m in watched.items() if not isinstance(m, Stack)}
        parameters: dict[str, Tensor] = {n: m.weight for n, m in watched.items()}  # type: ignore[misc]
        with ExitStack() as stack:
            for name, module in self.targets.items():
                hook = module.register_forward_hook(self._hook(name), with_kwargs=True)
                stack.callback(hook.remove)
            stack.enter_context(Watch(parameters, layers, self._told).on())
            yield

    def _told(self, reading: Reading) -> Tensor | None:
        """A product with a target's weight that no call of the layer makes."""
        name, module = reading.kept.name, self.targets[reading.kept.name]
        if not isinstance(module, Stack):
            if not reads_as(module, reading):
                return None
            return self._seen(name, module, reading.product.x, reading.result)
        if name not in self.stacks:
            weight, groups = dense_weight(module), module.groups
            wide = len(weight) // groups > WIDEST
            self.stacks[name] = StackSums(groups, weight.shape[1], reading.result, wide=wide)
        gradients = self.gradients and torch.is_grad_enabled()
        return self.stacks[name].add(reading, gradients=gradients)

    def _hook(self, name: str) -> Any:
        def hook(
            module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor
        ) -> Tensor | None:
            return self._seen(name, module, layer_input(given, named), output)

        return hook

    def _seen(self, name: str, module: nn.Module, value: Tensor, output: Tensor) -> Tensor | None:
        """Adds what a layer reads, and watches its output, in whose place what is returned goes."""
        with torch.no_grad():
            self._add_inputs(name, module, value)
        if not (self.gradients and torch.is_grad_enabled()):
            return None
        # The first layers: nothing before them needs a gradient.
        watched = output if output.requires_grad else output.detach().requires_grad_()
        watched.register_hook(  # type: ignore[no-untyped-call]
            lambda grad: self._add_outputs(name, module, grad, self.mask)
        )
        # The clone may be changed in place by what follows, which a leaf may not.
        return None if watched is output else watched.clone()

    def _add_inputs(self, name: str, module: nn.Module, value: Tensor) -> None:
        if isinstance(module, LOOKUPS):
            self.centres[name] = None
            self._count(name, *lookup_sums(module, value, self.mask))
            return
        if self.latest is None or self.latest.value is not value:
            self.latest = Read(value, input_rows(module, value, self.mask))
        read = self.latest
        if name not in self.centres:
            biased = getattr(module, "bias", None) is not None
            self.centres[name] = steady_centre(read.rows) if biased else None
        centre = self.centres[name]
        squares = read.squares if centre is None else gram(widened(read.rows) - centre[:, None])
        self._count(name, squares, read.total, read.rows.shape[1])
        if isinstance(module, nn.modules.conv._ConvNd):
            self.latest = None  # its patches are its own

    def _count(self, name: str, squares: Tensor, total: Tensor, count: int) -> None:
        accumulate(self.inputs, name, squares)
        accumulate(self.means, name, total)
        self.positions[name] += count

    def _add_outputs(self, name: str, module: nn.Module, grad: Tensor, mask: Tensor | None) -> None:
        rows = output_rows(module, grad.detach(), mask)
        wide = rows.shape[-1] > WIDEST
        accumulate(self.outputs, name, rows.double().square().sum(1) if wide else gram(rows))
