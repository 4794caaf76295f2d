"""Collecting moments: sums in float64, streamed over calibration data by hooks on the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.moments import (
    Moments,
    Read,
    check_sums,
    gram,
    steady_centre,
    widened,
)
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import answer, call, evaluating, layer_input, padding_mask
from pipeline.lowrank.network.rows import input_rows, lookup_counts, output_rows
from pipeline.lowrank.network.targets import dense_weight, groups_of
from pipeline.lowrank.tasks import Classification, Given, Task

WIDEST = 16_384  # a layer with more outputs has the diagonal of its outputs' moments alone
_SUM, _WORKING = 8, 16  # bytes an entry of a matrix: of its sum, and of one batch's product


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
    if not len(batches):
        raise LowRankError("the calibration set is empty: give at least one batch of examples")
    found: dict[str, Moments] = {}
    task = task or Classification()
    if gradients:
        task = task.fitted(answer(model, batch) for batch in batches)
    for block in _blocks(targets, gradients, memory_limit):
        one = _Pass(model, block, gradients, task, seed)
        found |= one.run(batches, further)
    if not found:
        name = next(iter(targets))
        raise LowRankError(
            f"layer {name!r} is not reached by the calibration data, nor is any other; give "
            "examples that the layers read"
        )
    return {name: found[name] for name in targets if name in found}


def _blocks(
    targets: Mapping[str, nn.Module], gradients: bool, limit: int
) -> list[dict[str, nn.Module]]:
    """Targets in consecutive blocks whose sums fit into `limit` bytes, with the work on the largest
    of them. Raises LowRankError where one target alone does not fit."""
    blocks: list[dict[str, nn.Module]] = [{}]
    held, largest = 0, 0
    for name, module in targets.items():
        sizes = _entries(module, gradients)
        if (needed := _SUM * sum(sizes) + _WORKING * max(sizes)) > limit:
            raise LowRankError(
                f"layer {name!r}: its sums take {needed / 2**30:.2g} GiB, and memory_gib is "
                f"{limit / 2**30:.2g}; raise memory_gib, or leave the layer out with "
                f"analyze.exclude=[{name}]"
            )
        if _SUM * (held + sum(sizes)) + _WORKING * max(largest, *sizes) > limit:
            blocks.append({})
            held, largest = 0, 0
        blocks[-1][name] = module
        held, largest = held + sum(sizes), max(largest, *sizes)
    return blocks


def _entries(module: nn.Module, gradients: bool) -> tuple[int, int]:
    """How many numbers the sums of a layer's inputs and of its gradients have."""
    weight, groups = dense_weight(module), groups_of(module)
    rows, columns = weight.shape[0] // groups, weight[0].numel()
    inputs = columns if isinstance(module, nn.Embedding) else columns**2
    outputs = rows if rows > WIDEST else rows**2
    return groups * inputs, groups * outputs if gradients else 0


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
        self.units = 0
        self.mask: Tensor | None = None
        self.latest: Read | None = None

    def run(self, batches: Sequence[Any], further: Sequence[Any]) -> dict[str, Moments]:
        with _frozen(self.model), self._hooked():
            for batch in batches:
                self._add(batch)
            self.gradients = False
            for batch in further:
                self._add(batch)
        return {name: self._moments(name) for name in self.targets if self.positions[name]}

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
                    torch.autograd.backward(loss)
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
        handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in self.targets.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def hook(
            module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor
        ) -> Tensor | None:
            with torch.no_grad():
                self._add_inputs(name, module, layer_input(given, named))
            if not (self.gradients and torch.is_grad_enabled()):
                return None
            # The first layers: nothing before them needs a gradient.
            watched = output if output.requires_grad else output.detach().requires_grad_()
            watched.register_hook(  # type: ignore[no-untyped-call]
                lambda grad: self._add_outputs(name, module, grad, self.mask)
            )
            # The clone may be changed in place by what follows, which a leaf may not.
            return None if watched is output else watched.clone()

        return hook

    def _add_inputs(self, name: str, module: nn.Module, value: Tensor) -> None:
        if isinstance(module, nn.Embedding):
            counts = lookup_counts(module, value, self.mask)
            self.centres[name] = None
            self._count(name, counts, counts, int(counts.sum()))
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
        _accumulate(self.inputs, name, squares)
        _accumulate(self.means, name, total)
        self.positions[name] += count

    def _add_outputs(self, name: str, module: nn.Module, grad: Tensor, mask: Tensor | None) -> None:
        rows = output_rows(module, grad.detach(), mask)
        wide = rows.shape[-1] > WIDEST
        _accumulate(self.outputs, name, rows.double().square().sum(1) if wide else gram(rows))


def _accumulate(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value.clone()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients of parameters, restored afterwards: the backward pass then
    costs only what the activations need."""
    wanted = {p: p.requires_grad for p in model.parameters()}
    with evaluating(model):
        model.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, value in wanted.items():
                parameter.requires_grad_(value)
