"""Second moments of a layer's inputs, and of the loss's gradient at its outputs, streamed over
calibration data. They are all that the metrics `input` and `fisher` need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import call, evaluating, padding_mask
from pipeline.lowrank.network.rows import input_rows, output_rows
from pipeline.lowrank.network.targets import dense_weight, groups_of
from pipeline.lowrank.tasks import Classification, Task

_BYTES = 8  # of a float64
_WIDE, _STRIPE = 1024, 192  # from so many columns on, half of a Gram matrix is computed in stripes


@dataclass(frozen=True)
class Moments:
    """Moments of one target, float64, one slice a group of a grouped convolution.

    inputs: (groups, n, n) mean over positions of x·xᵀ, n = in/groups · taps (a convolution's x is
        its im2col patch, as of torch.nn.functional.unfold).
    mean: (groups, n) mean of x.
    outputs: (groups, out/groups, out/groups) sum over the positions of one unit of loss (a token,
        or an example) of g·gᵀ, g = ∂loss/∂output; or None.
    positions: how many positions were averaged.

    ½·tr(outputs·ΔW·inputs·ΔWᵀ) is then a loss per unit, in the task's unit (Kronecker-factored
    Fisher: Martens & Grosse 2015; convolutions: Grosse & Martens 2016).
    """

    inputs: Tensor
    mean: Tensor
    outputs: Tensor | None
    positions: int


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
    """Moments of all targets over the batches, in one pass where they fit into memory.

    batches: what the model takes (a tensor, a tuple or a dict). Where a dict holds an
        `attention_mask` (N, T), positions that it marks 0 are left out.
    gradients: whether to collect `outputs` too, by a backward pass of the sampled loss of `task`
        (default: `Classification()`, whose sampled loss is the cross-entropy with labels drawn from
        the model's own prediction: the true Fisher matrix, not the empirical one).
    seed: of the labels that are drawn.
    memory_limit: bytes for the sums; targets beyond it are collected in further passes.
    further: batches for the inputs' moments alone, at a third of the time. Inputs gain more by more
        data than gradients do, because they are damped less.

    Raises LowRankError when there is no batch, when a target is never reached, or when an
    activation or gradient is NaN or Inf.
    """
    if not len(batches):
        raise LowRankError("the calibration set is empty: give at least one batch of examples")
    found: dict[str, Moments] = {}
    for block in _blocks(targets, gradients, memory_limit):
        one = _Pass(model, block, gradients, task or Classification(), seed)
        found |= one.run(batches, further)
    return {name: found[name] for name in targets}


def _blocks(
    targets: Mapping[str, nn.Module], gradients: bool, limit: int
) -> Iterator[dict[str, nn.Module]]:
    """Targets in consecutive blocks whose sums fit into `limit` bytes (at least one a block)."""
    block: dict[str, nn.Module] = {}
    used = 0
    for name, module in targets.items():
        groups, rows, columns = _sizes(module)
        size = groups * _BYTES * (columns**2 + (rows**2 if gradients else 0))
        if block and used + size > limit:
            yield block
            block, used = {}, 0
        block[name] = module
        used += size
    yield block


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
        self.positions: dict[str, int] = dict.fromkeys(targets, 0)
        self.units = 0
        self.mask: Tensor | None = None
        # Layers that read the very same tensor (query, key, value) share its Gram matrix.
        self.latest: tuple[Tensor, Tensor, Tensor, int] | None = None

    def run(self, batches: Sequence[Any], further: Sequence[Any]) -> dict[str, Moments]:
        with _frozen(self.model), self._hooked():
            for batch in batches:
                self._add(batch)
            self.gradients = False
            for batch in further:
                self._add(batch)
        return {name: self._moments(name) for name in self.targets}

    def _add(self, batch: Any) -> None:
        self.mask = padding_mask(batch)
        with torch.set_grad_enabled(self.gradients):
            output = call(self.model, batch)
            if self.gradients:
                rows = self.task.rows(output, self.mask)
                self.units += len(rows)
                torch.autograd.backward(self.task.sampled_loss(rows, self.generator))
        self.latest = None

    def _moments(self, name: str) -> Moments:
        count = self.positions[name]
        if not count:
            raise LowRankError(
                f"layer {name!r} is not reached by the calibration data; exclude it with "
                f"analyze.exclude=[{name}]"
            )
        outputs = self.outputs.get(name)
        found = Moments(
            inputs=self.inputs[name] / count,
            mean=self.means[name] / count,
            outputs=None if outputs is None else outputs / self.units,
            positions=count,
        )
        check_sums(name, found.inputs, found.outputs)
        return found

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = [
            module.register_forward_hook(self._hook(name)) for name, module in self.targets.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            with torch.no_grad():
                self._add_inputs(name, module, inputs[0])
            if not self.gradients:
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
        convolution = isinstance(module, nn.modules.conv._ConvNd)
        if convolution or self.latest is None or self.latest[0] is not value:
            rows = input_rows(module, value, self.mask)
            self.latest = (value, gram(rows), rows.double().sum(1), rows.shape[1])
        _, squares, total, count = self.latest
        _accumulate(self.inputs, name, squares)
        _accumulate(self.means, name, total)
        self.positions[name] += count

    def _add_outputs(self, name: str, module: nn.Module, grad: Tensor, mask: Tensor | None) -> None:
        rows = output_rows(module, grad.detach(), mask)
        _accumulate(self.outputs, name, gram(rows))


def check_sums(name: str, *sums: Tensor | None) -> None:
    """Raises LowRankError where a layer's sums hold NaN or Inf."""
    if not all(torch.isfinite(one).all() for one in sums if one is not None):
        raise LowRankError(
            f"layer {name!r}: activations or gradients hold NaN or Inf on the calibration "
            "data; check the data and the checkpoint"
        )


def gram(rows: Tensor, others: Tensor | None = None) -> Tensor:
    """(groups, positions, n) → (groups, n, n) float64: rowsᵀ·rows or rowsᵀ·others, with products in
    float32 or better, also where the network itself runs in a lower precision."""
    with torch.autocast(rows.device.type, enabled=False):
        wide = rows if rows.dtype == torch.float64 else rows.float()
        if others is not None:
            return (wide.mT @ others.to(wide.dtype)).double()
        if wide.shape[-1] < _WIDE:
            return (wide.mT @ wide).double()
        found = wide.new_empty(len(wide), wide.shape[-1], wide.shape[-1])
        for start in range(0, wide.shape[-1], _STRIPE):  # the upper half only, in stripes
            left = wide[..., start : start + _STRIPE].mT
            found[:, start : start + _STRIPE, start:] = left @ wide[..., start:]
        return found.triu().add_(found.triu(1).mT).double()


def _accumulate(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value.clone()


def _sizes(module: nn.Module) -> tuple[int, int, int]:
    """(groups, out/groups, in/groups · taps)."""
    weight = dense_weight(module)
    groups = groups_of(module)
    return groups, weight.shape[0] // groups, weight[0].numel()


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
