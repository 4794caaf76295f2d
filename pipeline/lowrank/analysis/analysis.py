"""Analysis: what is known of every target before any method, policy or budget is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.again import at_present_costs
from pipeline.lowrank.analysis.measurable import Measured, measurable
from pipeline.lowrank.analysis.measuring import measure
from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.options import AnalysisOptions, MetricName
from pipeline.lowrank.analysis.overview import analysis_table
from pipeline.lowrank.analysis.spectra import Spectra, analyze_weight
from pipeline.lowrank.analysis.spill import Spill
from pipeline.lowrank.analysis.stored import StoredMetrics
from pipeline.lowrank.analysis.survey import Survey, survey
from pipeline.lowrank.analysis.whitened import WhitenedWeights
from pipeline.lowrank.forms.dense import multiplied_out
from pipeline.lowrank.network.calling import beside, device_of, first_example, placed
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
    notes: {name: what its statistics lack}, of those that lack something.
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
        return "; ".join(filter(None, [self.targets[name].note, self.notes.get(name)]))

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
    spill: a folder for the metric and the spectra of each layer as they come, which then take no
        memory; what it holds already for these options is not computed again. It must be of this
        network, calibration and task. Of large matrices it gets values alone: `View.basis`.
    executor: who computes the spectra, layer by layer; None: this process. With `spill` the folder
        must be one that its processes and this one share, and numbers pass through it alone.

    Raises LowRankError where no layer can be factorized, and where statistics hold NaN or Inf.
    """
    if chosen is None:
        chosen = AnalysisOptions(metric="fisher" if len(calibration) else "weight")
    calibration = beside(model, calibration)
    if example is None:
        example = first_example(calibration)
    known: Mapping[str, Measured] = {}
    # A process elsewhere knows no folder of this one's.
    kept = None if spill is None else Spill.of(spill.absolute(), chosen, seed)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        # From the survey on: the hooks are put on the layers that it finds.
        network, factorized = stack.enter_context(multiplied_out(model))
        stack.enter_context(opened(network))
        example = placed(example, device_of(model))
        found = survey(network, example, chosen.include, chosen.exclude, calibration)
        if chosen.metric != "weight":
            given = (network, found, calibration, chosen)
            known = measure(*given, task=task, seed=seed, spill=kept)
    found = at_present_costs(found, model, factorized)
    return _analysis(found, chosen, known, kept, executor)


def _analysis(
    found: Survey,
    chosen: AnalysisOptions,
    known: Mapping[str, Measured],
    spill: Spill | None,
    executor: Executor | None,
) -> Analysis:
    """The spectra of all targets in a metric. Targets that the calibration data or the loss's
    gradient never reach are skipped, with that reason.

    known: {target: what its moments say}; empty for the metric `weight`.
    """
    metric = chosen.metric
    if metric != "weight":
        found = measurable(found, metric, known)
    metrics = StoredMetrics({name: known[name].parts for name in found.targets if name in known})
    if executor is not None and spill is not None:
        written = each(executor, _write, _jobs(found, metrics, spill))
        for _ in steps(found.modules, "spectra"):
            next(written)
        executor = None  # they are in the folder now
    parts = each(executor, _spectra, _jobs(found, metrics, spill))
    spectra = dict(zip(steps(found.modules, "spectra"), parts, strict=True))
    return Analysis(
        metric=metric,
        totals=found.totals,
        targets=found.targets,
        spectra=spectra,
        skipped=found.skipped,
        metrics=metrics,
        damping=chosen.damping if metric == "fisher" else None,
        notes={name: known[name].note for name in metrics if known[name].note},
        example=found.example,
    )


_Job = tuple[str, Metric | None, Spill | None]


def _jobs(
    found: Survey, metrics: StoredMetrics, spill: Spill | None
) -> Iterator[tuple[Tensor, int, _Job]]:
    """The weight of each layer, its groups, and what it needs, each read when it is its turn; of
    layers that are spilled the metric lies in the folder."""
    for name, module in found.modules.items():
        metric = metrics.get(name) if spill is None else None
        yield dense_weight(module), groups_of(module), (name, metric, spill)


def _spectra(weight: Tensor, groups: int, job: _Job) -> Spectra:
    name, metric, spill = job
    if spill is not None:
        return spill.spectra(name, weight, groups)
    return analyze_weight(metric.whiten(weight) if metric else weight, groups)


def _write(weight: Tensor, groups: int, job: _Job) -> None:
    _spectra(weight, groups, job)
