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
from pipeline.lowrank.analysis.metrics import Metric, make_metric
from pipeline.lowrank.analysis.moments import Moments, check_sums
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.drift import Drift, corrected_weight, measure_drift
from pipeline.lowrank.factorize.layer import LayerFactorization, LayerReport
from pipeline.lowrank.factorize.report import RefitDivergence, RefitReport
from pipeline.lowrank.forms.dense import multiplied_out
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.methods.interpolative import is_narrower
from pipeline.lowrank.network.blocks import BlockStates, find_blocks, record_calls, targets_in
from pipeline.lowrank.network.calling import beside, device_of, padding_mask
from pipeline.lowrank.network.opening import opened, replace_
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.rows import input_rows
from pipeline.lowrank.network.targets import Target, dense_weight
from pipeline.lowrank.planning.plan import Plan

# No layer spoils the inputs of lookups, and other tokens reach a stack.
_STAY = ("embedding", "embedding_bag", "stack")


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
    divergence: Divergence,
    *,
    share: float,
    bf16: bool = False,
) -> Refit:
    """`refit_` on a copy, which is taken only if its divergence from the dense network is less than
    that of `compressed`.

    divergence: on data that is held out.
    bf16: the networks run in bfloat16 while inputs are collected.

    Raises LowRankError where `refit_` does.
    """
    model = copy.deepcopy(compressed)
    with torch.autocast(device_of(dense).type, torch.bfloat16, enabled=bf16):
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
    blocks stay, and so do embeddings, whose inputs no layer can spoil, recurrent weights, which
    read what they make themselves, narrowed layers, which read fewer channels than the dense ones,
    and stacks, whose groups other positions go through.

    dense: the network that the plan was made for.
    analysis: the one that the plan was made from.
    batches: what the networks take.
    share: how far weights move to the least-squares solution, in (0, 1].

    Returns reports as `apply_` does, of the corrected weights in the metric of x'. Raises
    LowRankError where the blocks do not follow one another, or where a state is NaN or Inf.
    """
    if not len(batches):
        raise LowRankError("the calibration set is empty: give at least one batch of examples")
    batches, reports = beside(dense, batches), {}
    names = [
        name
        for name, layer in plan.factorized.items()
        if not is_narrower(layer.method) and _reads_states(analysis.targets[name])
    ]
    with multiplied_out(dense) as (dense, _), opened(dense):
        for name, drift in _drifts(dense, compressed, names, batches) if names else ():
            check_sums(name, drift.inputs, drift.cross)
            module = dense.get_submodule(name)
            built, reports[name] = _refitted(name, module, plan, analysis, drift, share)
            replace_(compressed, name, built)
    return reports


def _refitted(
    name: str, module: nn.Module, plan: Plan, analysis: Analysis, drift: Drift, share: float
) -> tuple[Factorized, LayerReport]:
    """The factorized layer of the corrected weight of `module`, and its report."""
    weight, bias = dense_weight(module), getattr(module, "bias", None)
    metric = _metric(analysis, name, drift) if plan.metric != "weight" else None
    corrected = corrected_weight(weight, drift, share, centred=bias is not None, name=name)
    expected, method = plan.expected.layers[name], plan.methods[plan.factorized[name].method]
    one = LayerFactorization(name, module, expected, method, metric, weight=corrected)
    built = one.built()
    if bias is not None:
        change = _mean_change(weight, built.dense_weight(), drift)
        built[-1].bias.copy_(bias + change)  # type: ignore[operator]
    report = replace(one.report(built, predicted=False), correction=one.distance(weight))
    return built, report


def _reads_states(target: Target) -> bool:
    """Whether a target reads what the layers before it make: an embedding does not, nor do the
    recurrent weights of an LSTM (the targets without positions)."""
    return target.kind not in _STAY and target.out_positions > 0


def _drifts(
    dense: nn.Module, compressed: nn.Module, targets: Sequence[str], batches: Sequence[Any]
) -> Iterator[tuple[str, Drift]]:
    """(target, its drift) for the targets in the blocks, in the order in which they run. The caller
    must refit a target before asking for the next one, whose inputs are measured after that."""
    blocks = find_blocks(dense, targets, "refit.share=0")
    calls = [record_calls(dense, blocks, batch) for batch in batches]
    masks = [padding_mask(batch) for batch in batches]
    before, after = (BlockStates(m, blocks, batches, calls) for m in (dense, compressed))
    for place, block in enumerate(steps(blocks, "refit")):
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
