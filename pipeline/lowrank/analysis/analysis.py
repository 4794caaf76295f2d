"""Analysis: what is known of every target before any method, policy or budget is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.again import at_present_costs
from pipeline.lowrank.analysis.collecting import collect_moments
from pipeline.lowrank.analysis.measurable import check_measurable, measurable
from pipeline.lowrank.analysis.memory import WIDEST
from pipeline.lowrank.analysis.metrics import (
    DAMPING,
    Metric,
    make_metric,
)
from pipeline.lowrank.analysis.moments import Moments
from pipeline.lowrank.analysis.options import AnalysisOptions, MetricName
from pipeline.lowrank.analysis.overview import analysis_table
from pipeline.lowrank.analysis.routing import rare_groups
from pipeline.lowrank.analysis.spectra import (
    Spectra,
    analyze_weight,
    spilled,
)
from pipeline.lowrank.analysis.survey import Survey, survey
from pipeline.lowrank.analysis.whitened import WhitenedWeights
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.dense import multiplied_out
from pipeline.lowrank.network.calling import beside, device_of, evenly, first_example, placed
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.executing import Executor, each
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.skipped import Skipped
from pipeline.lowrank.network.targets import Target, dense_weight, groups_of
from pipeline.lowrank.tasks import Task


@dataclass(frozen=True)
class Analysis:
    """The targets of a network with their spectra in one metric.

    metric: the norm of the errors.
    totals: costs of the dense network.
    targets, spectra: {name: its facts}, {name: its spectra in the metric}.
    skipped: {other layer or parameter: why it is no target}, the largest first.
    metrics: {name: the whitening of its weight}; empty for the metric `weight`.
    damping: that of the metric `fisher`, else None.
    notes: {name: what its statistics lack}.
    example: the batch of one that counted positions; None for an analysis from a file.
    """

    metric: MetricName
    totals: Totals
    targets: Mapping[str, Target]
    spectra: Mapping[str, Spectra]
    skipped: Mapping[str, Skipped]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    damping: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    example: Any = field(default=None, repr=False, compare=False)

    def whitened(self, model: nn.Module) -> Mapping[str, Tensor]:
        """{target: its weight in the metric, (out, in/groups, *kernel) float64}, each computed
        when it is first asked for."""
        return WhitenedWeights(self, model)

    def whiten(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the target, or a change of it, (out, in/groups, *kernel) → the same shape,
        float64. The Frobenius norm of the result is the norm in the metric."""
        if name in self.metrics:
            return self.metrics[name].whiten(weight)
        return weight.to(torch.float64)

    def note(self, name: str) -> str:
        """What a reader of a plan should know about the errors of a target; may be empty."""
        left = self.metrics[name].left if name in self.metrics else None
        wide = left is not None and left.dim() == 2
        notes = {
            self.targets[name].note: True,
            self.notes.get(name, ""): True,
            f"G is diagonal: more than {WIDEST:,} outputs": wide,
            "no gradient at any layer: errors are those of its output, no nats": left is not None
            and not wide
            and bool((left == torch.eye(left.shape[-1]).to(left)).all()),
        }
        return "; ".join(note for note, applies in notes.items() if note and applies)

    def __repr__(self) -> str:
        return f"Analysis({self.metric}, {len(self.targets)} targets)"

    def __str__(self) -> str:
        return analysis_table(self).text()

    def _repr_html_(self) -> str:
        return analysis_table(self).html()


def analyze(
    model: nn.Module,
    example: Any = None,
    *,
    calibration: Sequence[Any] = (),
    chosen: AnalysisOptions | None = None,
    task: Task | None = None,
    seed: int = 0,
    spill: Path | None = None,
    executor: Executor | None = None,
) -> Analysis:
    """Analyzes a trained network; changes nothing. A layer that is factorized already is a target
    by the product of its factors, at the costs that it has.

    example: a batch of one, for counting positions (default: the first calibration example).
    calibration: batches of what the model takes, for the metrics `input` and `fisher`.
    chosen: the options (default: those of the configuration; the metric is `weight` where there is
        no calibration).
    task: what the model predicts (default: `Classification()`).
    seed: of the labels that `fisher` draws.
    spill: for the metric `weight`: a folder for the spectra of each layer as they come, which then
        take no memory; what it holds already is not computed again. It must be of this network.
    executor: who computes the spectra, layer by layer; None: this process. With `spill` the folder
        must be one that its processes and this one share, and numbers pass through it alone.

    Raises LowRankError where no layer can be factorized, and where statistics hold NaN or Inf.
    """
    if chosen is None:
        chosen = AnalysisOptions(metric="fisher" if len(calibration) else "weight")
    calibration = beside(model, calibration)
    if example is None:
        example = first_example(calibration)
    place = device_of(model)
    limit = round(chosen.memory_gib * 2**30)
    some, others = evenly(calibration, chosen.gradient_share)
    moments = None
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        # From the survey on: the hooks are put on the layers that it finds.
        network, factorized = stack.enter_context(multiplied_out(model))
        stack.enter_context(opened(network))
        example = placed(example, place)
        found = survey(network, example, chosen.include, chosen.exclude, calibration)
        if chosen.metric != "weight":
            check_measurable(network, found.targets, limit)
            stack.enter_context(torch.autocast(place.type, torch.bfloat16, enabled=chosen.bf16))
            moments = collect_moments(
                network,
                some,
                found.modules,
                gradients=chosen.metric == "fisher",
                task=task,
                seed=seed,
                memory_limit=limit,
                further=others,
            )
    found = at_present_costs(found, model, factorized)
    return analysis_in(found, chosen.metric, moments, chosen.damping, spill, executor)


def analysis_in(
    found: Survey,
    metric: MetricName,
    moments: Mapping[str, Moments] | None = None,
    damping: float = DAMPING,
    spill: Path | None = None,
    executor: Executor | None = None,
) -> Analysis:
    """The spectra of all targets in a metric.

    moments: {target: its moments} of `collect_moments`, which `input` and `fisher` need.
    damping: of `fisher`.
    spill, executor: as of `analyze`.

    Targets that the calibration data or the loss's gradient never reach are skipped, with that
    reason. Raises LowRankError where a metric needs moments that are not given, and where no target
    is left.
    """
    metrics: dict[str, Metric] = {}
    if metric != "weight":
        if moments is None:
            raise LowRankError(f"metric {metric!r} needs calibration data: give its moments")
        found = measurable(found, metric, moments)
        metrics = {
            n: make_metric(metric, moments[n], t, damping)
            for n, t in steps(found.targets.items(), "metric")
        }
    folder = None if metrics else spill
    jobs = [(name, metrics.get(name), folder) for name in found.modules]
    if executor is not None and folder is not None:
        written = each(executor, _write, _with_weights(found, jobs))
        for _ in steps(jobs, "spectra"):
            next(written)
        executor = None  # they are in the folder now
    parts = each(executor, _spectra, _with_weights(found, jobs))
    spectra = dict(zip(steps(found.modules, "spectra"), parts, strict=True))
    return Analysis(
        metric=metric,
        totals=found.totals,
        targets=found.targets,
        spectra=spectra,
        skipped=found.skipped,
        metrics=metrics,
        damping=damping if metric == "fisher" else None,
        notes={n: told for n in metrics if moments and (told := rare_groups(moments[n]))},
        example=found.example,
    )


_Job = tuple[str, Metric | None, Path | None]


def _with_weights(found: Survey, jobs: Iterable[_Job]) -> Iterator[tuple[Tensor, int, _Job]]:
    """The jobs with the weights of their layers, each read when it is its turn."""
    for job in jobs:
        module = found.modules[job[0]]
        yield dense_weight(module), groups_of(module), job


def _spectra(weight: Tensor, groups: int, job: _Job) -> Spectra:
    name, metric, folder = job
    if folder is not None:
        return spilled(folder, name, weight, groups)
    return analyze_weight(metric.whiten(weight) if metric else weight, groups)


def _write(weight: Tensor, groups: int, job: _Job) -> None:
    _spectra(weight, groups, job)
