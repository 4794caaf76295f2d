"""What follows a factorization: the refit in closed form, statistics, and trained blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.apply import Compression
from pipeline.lowrank.factorize.batchnorm import estimate_if_closer
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.factorize.refine import refine_
from pipeline.lowrank.factorize.refit import refit_if_closer
from pipeline.lowrank.factorize.report import CompressionReport
from pipeline.lowrank.tasks import Task


@dataclass(frozen=True)
class Settled:
    """A compressed network after its refit.

    network: as it is in the end.
    certified: the network of which errors and bounds are true: that after the closed form, and
        before statistics and blocks, since these change norms too.
    report: what was measured.
    """

    network: nn.Module
    certified: nn.Module
    report: CompressionReport


def settle(
    dense: nn.Module,
    done: Compression,
    analysis: Analysis,
    batches: Sequence[Any],
    held_out: Sequence[Any],
    chosen: RefitOptions,
    *,
    task: Task,
    seed: int = 0,
    folder: Path | None = None,
) -> Settled:
    """Does what the options ask for, each step only where it brings the network closer to the dense
    one.

    done: the factorization, whose network may be changed.
    analysis: the one that its plan was made from.
    batches: what the networks take, to learn from; held_out: to measure on.
    task: what the networks predict.
    seed: of the order in which blocks see the batches.
    folder: where blocks that are trained are kept, for a refinement that is killed.

    Raises LowRankError where `refit_` or `refine_` does, and without held-out data.
    """
    model, report = done.network, CompressionReport(dict(done.layers), done.totals)
    if not (chosen.wanted and done.plan.factorized):
        return Settled(model, model, report)
    divergence = Divergence(dense, held_out, task)
    if chosen.share:
        share, bf16 = chosen.share, chosen.bf16
        refit = refit_if_closer(
            dense, model, done.plan, analysis, batches, divergence, share=share, bf16=bf16
        )
        layers = {**report.layers, **refit.reports}
        model, report = refit.model, replace(report, layers=layers, refit=refit.report())
    certified = model
    if chosen.batchnorm:
        model, batchnorm = estimate_if_closer(model, batches, divergence)
        report = replace(report, batchnorm=batchnorm)
    if chosen.steps:
        model = copy.deepcopy(model)
        names = list(done.plan.factorized)
        refine = refine_(
            dense, model, batches, divergence, chosen, layers=names, seed=seed, folder=folder
        )
        report = replace(report, refine=refine)
    return Settled(model, certified, report)
