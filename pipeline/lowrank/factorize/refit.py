"""Refit: each layer takes up the errors of the layers before it, in closed form.

A factorized layer reads x', which the layers before it have spoilt, while its factors were made for
the dense network's x. Block by block, from the first to the last, E‖W·x − V·x'‖² is minimised over
V, the weight moves `share` of the way from W to V, and is factorized again at the same ranks in the
metric of x'. The whole way would be too far: V is a regression, which shrinks what it cannot
explain, and that adds up from block to block. The update in closed form is SVD-LLM's (Wang et al.
2024, arXiv 2403.07378); to minimise the output error on the compressed network's own inputs is the
idea of AA-SVD (arXiv 2604.02119) and of GPTQ-like methods.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.analysis.metrics import UNCERTAIN, Metric, cholesky, make_metric
from pipeline.lowrank.analysis.moments import Moments, check_sums, gram
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.layer import LayerFactorization, LayerReport
from pipeline.lowrank.factorize.report import RefitDivergence, RefitReport
from pipeline.lowrank.forms.surgery import replace_
from pipeline.lowrank.network.blocks import BlockStates, find_blocks, record_calls, targets_in
from pipeline.lowrank.network.calling import padding_mask
from pipeline.lowrank.network.rows import input_rows
from pipeline.lowrank.network.targets import dense_weight
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.tasks import Task

# Directions with less than this part of the mean input energy are corrected less.
_DAMPING = 1e-4


@dataclass
class Drift:
    """Sums over the positions of one layer's inputs, x in the dense network and x' in the
    compressed one, float64, one slice a group.

    inputs: (groups, n, n) Σx'·x'ᵀ.
    cross: (groups, n, n) Σ(x − x')·x'ᵀ.
    mean, dense_mean: (groups, n) Σx' and Σx.
    positions: how many were summed.
    """

    inputs: Tensor
    cross: Tensor
    mean: Tensor
    dense_mean: Tensor
    positions: int

    def __add__(self, other: Drift) -> Drift:
        return Drift(**{key: value + getattr(other, key) for key, value in vars(self).items()})


def measure_drift(dense_rows: Tensor, rows: Tensor) -> Drift:
    """The sums of one batch; dense_rows, rows: (groups, positions, n), x and x' at the same
    positions."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return Drift(
        inputs=gram(rows),
        cross=gram(rows, dense_rows.to(wide) - rows.to(wide)).mT,
        mean=rows.double().sum(1),
        dense_mean=dense_rows.double().sum(1),
        positions=rows.shape[1],
    )


def corrected_weight(
    weight: Tensor, drift: Drift, share: float, *, centred: bool, name: str = ""
) -> Tensor:
    """W + share·(V − W), V = argmin E‖W·x − V·x'‖² = W + W·E[(x − x')x'ᵀ]·E[x'x'ᵀ]⁻¹, damped.

    weight: W (out, in/groups, *kernel).
    share: in [0, 1].
    centred: covariances instead of second moments, for a layer whose bias takes up the mean.
    name: of the layer, for messages.

    Returns float64 in the shape of the weight.
    """
    count = drift.positions
    inputs, cross = drift.inputs / count, drift.cross / count
    lost = inputs.new_zeros(len(inputs))
    if centred:
        # Where inputs hardly vary around a large mean, little of the sums is left.
        lost = UNCERTAIN * _trace(inputs)
        mean, shift = drift.mean / count, (drift.dense_mean - drift.mean) / count
        inputs = inputs - mean[:, :, None] * mean[:, None, :]
        cross = cross - shift[:, :, None] * mean[:, None, :]
    groups, size = drift.mean.shape
    matrix = weight.to(torch.float64).reshape(groups, -1, size)
    floor = _DAMPING / size * _trace(inputs).clamp_min(0.0) + lost
    factor = cholesky(inputs, torch.where(floor > 0, floor, 1.0)[:, None], name)
    change = torch.cholesky_solve((matrix @ cross).mT, factor).mT
    return (matrix + share * change).reshape(weight.shape)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


@dataclass(frozen=True)
class Refit:
    """The result of a refit.

    model: the refit network, or the unrefit one where that is closer to the dense network.
    reports: of the layers that were refit; empty where the unrefit network is kept.
    share: how far the weights moved.
    without, refit: mean divergence per unit from the dense network on held-out data (in the task's
        unit), without the refit and with it.
    """

    model: nn.Module
    reports: Mapping[str, LayerReport]
    share: float
    without: float
    refit: float

    def report(self) -> RefitReport:
        """The figures of this refit that layers.json keeps."""
        divergence = RefitDivergence(without=self.without, refit=self.refit)
        return RefitReport(self.share, kept=bool(self.reports), divergence=divergence)


def refit_if_closer(
    dense: nn.Module,
    compressed: nn.Module,
    plan: Plan,
    analysis: Analysis,
    batches: Sequence[Any],
    held_out: Sequence[Any],
    *,
    task: Task,
    share: float,
    bf16: bool = False,
) -> Refit:
    """`refit_` on a copy, which is taken only if its divergence from the dense network on
    `held_out` is less than that of `compressed`.

    task: what both networks predict.
    bf16: the networks run in bfloat16 while inputs are collected.

    Raises LowRankError where `refit_` does, and without held-out data.
    """
    divergence = Divergence(dense, held_out, task)
    model = copy.deepcopy(compressed)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        reports = refit_(dense, model, plan, analysis, batches, share=share)
    without, after = divergence.of(compressed), divergence.of(model)
    if after >= without:
        model, reports = compressed, {}
    return Refit(model, reports, share, without, after)


@torch.no_grad()
def refit_(
    dense: nn.Module,
    compressed: nn.Module,
    plan: Plan,
    analysis: Analysis,
    batches: Sequence[Any],
    *,
    share: float,
) -> dict[str, LayerReport]:
    """Refits the factorized layers in the blocks of `compressed`, in place; layers outside of the
    blocks stay, and so do embeddings, whose inputs no layer can spoil.

    dense: the network that the plan was made for.
    analysis: the one that the plan was made from.
    batches: what the networks take.
    share: how far weights move to the least-squares solution, in (0, 1].

    Returns reports as `apply_` does, of the corrected weights in the metric of x'. Raises
    LowRankError where the blocks do not follow one another, or where a state is NaN or Inf.
    """
    if not len(batches):
        raise LowRankError("the calibration set is empty: give at least one batch of examples")
    reports = {}
    names = [name for name in plan.factorized if analysis.targets[name].kind != "embedding"]
    for name, drift in _drifts(dense, compressed, names, batches) if names else ():
        check_sums(name, drift.inputs, drift.cross)
        layer, module = plan.factorized[name], dense.get_submodule(name)
        weight, bias = dense_weight(module), getattr(module, "bias", None)
        metric = _metric(analysis, name, drift) if plan.metric != "weight" else None
        corrected = corrected_weight(weight, drift, share, centred=bias is not None, name=name)
        expected, method = plan.expected.layers[name], plan.methods[layer.method]
        one = LayerFactorization(name, module, expected, method, metric, weight=corrected)
        built = one.built()
        if bias is not None:
            change = _mean_change(weight, built.dense_weight(), drift)
            built[-1].bias.copy_(bias + change)  # type: ignore[operator]
        reports[name] = replace(one.report(built, predicted=False), correction=one.distance(weight))
        replace_(compressed, name, built)
    return reports


def _drifts(
    dense: nn.Module, compressed: nn.Module, targets: Sequence[str], batches: Sequence[Any]
) -> Iterator[tuple[str, Drift]]:
    """(target, its drift) for the targets in the blocks, in the order in which they run. The caller
    must refit a target before asking for the next one, whose inputs are measured after that."""
    blocks = find_blocks(dense, targets, "refit.share=0")
    calls = [record_calls(dense, blocks, batch) for batch in batches]
    masks = [padding_mask(batch) for batch in batches]
    before, after = (BlockStates(m, blocks, batches, calls) for m in (dense, compressed))
    for place, block in enumerate(blocks):
        inputs = list(before.inputs(place, targets_in(block, targets), leave=True))
        for names in _steps(dense, inputs[0]):
            module = dense.get_submodule(names[0])
            read = (found[names[0]] for found in after.inputs(place, names[:1]))
            parts = [
                measure_drift(
                    *(input_rows(module, value, mask) for value in (one[names[0]], other))
                )
                for one, other, mask in zip(inputs, read, masks, strict=True)
            ]
            total = sum(parts[1:], parts[0])
            yield from ((name, total) for name in names)
        after.go_on(place)


def _steps(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[list[str]]:
    """Layers in the order in which they run, in one list where they read the very same tensor
    (query, key and value)."""
    steps: dict[int, list[str]] = {}
    for name, value in inputs.items():
        module = model.get_submodule(name)
        kernel = isinstance(module, nn.modules.conv._ConvNd)  # its rows are its own
        steps.setdefault(id(module if kernel else value), []).append(name)
    return list(steps.values())


def _metric(analysis: Analysis, name: str, drift: Drift) -> Metric:
    """The analysis' metric with x' for x; without its mean, since the bias is set here."""
    count = drift.positions
    moments = Moments(drift.inputs / count, drift.mean / count, None, count)
    here = make_metric("input", moments, analysis.targets[name], 0.0)
    return replace(here, left=analysis.metrics[name].left, mean=None)


def _mean_change(weight: Tensor, approximation: Tensor, drift: Drift) -> Tensor:
    """(out,) E[W·x] − E[Ŵ·x'], which the bias takes up."""
    groups, size = drift.mean.shape
    dense, other = (w.double().reshape(groups, -1, size) for w in (weight, approximation))
    means = (m / drift.positions for m in (drift.dense_mean, drift.mean))
    before, after = (
        torch.einsum("gon,gn->go", *pair).flatten()
        for pair in zip((dense, other), means, strict=True)
    )
    return before - after
