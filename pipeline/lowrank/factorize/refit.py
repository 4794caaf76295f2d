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
from pipeline.lowrank.factorize.drift import Drift, corrected_weight, mean_change
from pipeline.lowrank.factorize.layer import LayerFactorization, LayerReport
from pipeline.lowrank.factorize.report import RefitDivergence, RefitReport
from pipeline.lowrank.factorize.starts import Start, Starts, bias_of, weight_of
from pipeline.lowrank.forms.dense import multiplied_out
from pipeline.lowrank.network.blocks import BlockStates, find_walk, targets_in
from pipeline.lowrank.network.calling import beside, device_of, padding_mask
from pipeline.lowrank.network.opening import opened, replace_
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.targets import Target
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
    read what they make themselves, layers that pass channels of a narrower dimension on by
    themselves, and stacks, whose groups other positions go through.

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
    names = [name for name in plan.factorized if _reads_states(analysis.targets[name])]
    with multiplied_out(dense) as (dense, _), opened(dense):
        starts = Starts(dense, compressed, plan, analysis)
        names = [name for name in names if not starts.passes(name)]
        for start, drift in _drifts(dense, compressed, names, starts, batches) if names else ():
            check_sums(start.name, drift.inputs, drift.cross)
            built, reports[start.name] = _refitted(start, plan, analysis, drift, share)
            replace_(compressed, start.name, built)
    return reports


def _refitted(
    start: Start, plan: Plan, analysis: Analysis, drift: Drift, share: float
) -> tuple[nn.Module, LayerReport]:
    """The layer of the corrected weight, factorized where the plan says so, and its report."""
    name, bias = start.name, start.bias()
    metric = _metric(analysis, start, drift) if plan.metric != "weight" else None
    corrected = corrected_weight(start.weight, drift, share, centred=bias is not None, name=name)
    built: nn.Module
    if start.method is None:
        built, report = start.with_weight(corrected), start.report()
    else:
        one = LayerFactorization(
            name, start.layer, start.expected, start.method, metric, weight=corrected
        )
        built = layer = one.built()
        report = one.report(layer, predicted=False)
    if bias is not None:
        change = mean_change(start.weight, weight_of(built), drift)
        bias_of(built).copy_(bias + change)
    before, after = (metric.whiten(w) if metric else w for w in (start.weight, corrected))
    moved = float((after - before).norm()) / (float(after.norm()) or 1.0)
    return built, replace(report, correction=moved)


def _reads_states(target: Target) -> bool:
    """Whether a target reads what the layers before it make: an embedding does not, nor do the
    recurrent weights of an LSTM (the targets without positions)."""
    return target.kind not in _STAY and target.out_positions > 0


def _drifts(
    dense: nn.Module,
    compressed: nn.Module,
    targets: Sequence[str],
    starts: Starts,
    batches: Sequence[Any],
) -> Iterator[tuple[Start, Drift]]:
    """(what a target starts from, its drift) for the targets in the blocks, in the order in which
    they run. The caller must refit a target before asking for the next one, whose inputs are
    measured after that."""
    blocks, calls = find_walk(dense, targets, batches, "refit.share=0")
    masks = [padding_mask(batch) for batch in batches]
    before, after = (BlockStates(m, blocks, batches, calls) for m in (dense, compressed))
    for place, block in enumerate(steps(blocks, "refit")):
        inputs = list(before.inputs(place, targets_in(block, targets), leave=True))
        for names in _steps(dense, inputs[0], starts):
            first = starts.of(names[0])
            read = (found[names[0]] for found in after.inputs(place, names[:1]))
            parts = [
                first.drift(one[names[0]], other, mask)
                for one, other, mask in zip(inputs, read, masks, strict=True)
            ]
            total = sum(parts[1:], parts[0])
            yield first, total
            yield from ((starts.of(name), total) for name in names[1:])
        after.go_on(place)


def _steps(model: nn.Module, inputs: Mapping[str, Tensor], starts: Starts) -> list[list[str]]:
    """Layers in the order in which they run, in one list where they read the very same tensor
    (query, key and value) and have the same drift."""
    steps: dict[int, list[str]] = {}
    for name, value in inputs.items():
        module = model.get_submodule(name)
        # A kernel's rows are its own, and so is the drift of a layer that reads fewer channels.
        own = isinstance(module, nn.modules.conv._ConvNd) or starts.narrower(name)
        steps.setdefault(id(module if own else value), []).append(name)
    return list(steps.values())


def _metric(analysis: Analysis, start: Start, drift: Drift) -> Metric:
    """The analysis' metric with x' for x; without its mean, since the bias is set here."""
    count = drift.positions
    moments = Moments(drift.inputs / count, drift.mean / count, None, count)
    here = make_metric("input", moments, analysis.targets[start.name], 0.0)
    return replace(here, left=start.left, mean=None)
