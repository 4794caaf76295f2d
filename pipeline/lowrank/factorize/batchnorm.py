"""Statistics of BatchNorm layers, estimated again: what a compressed network feeds into them has
another mean and variance than what the dense one fed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.report import BatchNormReport, RefitDivergence
from pipeline.lowrank.network.calling import beside, call, evaluating


def estimate_if_closer(
    compressed: nn.Module, batches: Sequence[Any], divergence: Divergence
) -> tuple[nn.Module, BatchNormReport | None]:
    """(the network with the statistics of `estimate_`, or the one that was given where that is
    closer to the dense one; what was measured, None where there is no such statistic).

    batches: what the network takes.
    divergence: from the dense network, on data that is held out.
    """
    model = copy.deepcopy(compressed)
    layers = estimate_(model, batches)
    if not layers:
        return compressed, None
    measured = RefitDivergence(without=divergence.of(compressed), refit=divergence.of(model))
    kept = measured.refit < measured.without
    return model if kept else compressed, BatchNormReport(layers, kept, measured)


@torch.no_grad()
def estimate_(model: nn.Module, batches: Sequence[Any]) -> int:
    """Sets the running mean and variance of all BatchNorm layers of `model`, in place, to the mean
    over the batches of each batch's mean and variance (unbiased), as torch's `update_bn` does;
    everything else is in eval mode meanwhile.

    batches: what the model takes; each counts alike.

    Returns how many layers there are; without one, nothing is run.
    """
    found = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not found:
        return 0
    momenta = [module.momentum for module in found]
    with evaluating(model):
        for module in found:
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
            module.train()
        for batch in beside(model, batches):
            call(model, batch)
    for module, momentum in zip(found, momenta, strict=True):
        module.momentum = momentum
    return len(found)
