"""Analysis: what is known of every target before any method, policy or budget is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis import diagnostics
from pipeline.lowrank.analysis.history import WeightSpectra, save_weight_spectra
from pipeline.lowrank.analysis.metrics import (
    DAMPING,
    METRICS,
    Metric,
    load_metrics,
    make_metric,
    save_metrics,
)
from pipeline.lowrank.analysis.moments import Moments
from pipeline.lowrank.analysis.spectra import (
    Spectra,
    View,
    analyze_weight,
    load_spectra,
    save_spectra,
)
from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.network.costs import Totals, describe_target, network_totals, trace_positions
from pipeline.lowrank.network.targets import Target, dense_weight, find_targets, groups_of


@dataclass(frozen=True)
class Analysis:
    """Targets with their spectra in one metric, the dense network's totals, and why other
    layers are left alone. `metrics` whitens each target, and is empty for metric `weight`;
    `damping` is that of `fisher`, else None."""

    metric: str
    totals: Totals
    targets: Mapping[str, Target]
    spectra: Mapping[str, Spectra]
    skipped: Mapping[str, str]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    damping: float | None = None

    def whitened(self, model: nn.Module) -> dict[str, Tensor]:
        """{target: its weight in the metric, (out, in/groups, *kernel) float64}."""
        return {
            name: self.whiten(name, dense_weight(model.get_submodule(name)))
            for name in self.targets
        }

    def whiten(self, name: str, weight: Tensor) -> Tensor:
        """A weight, or a change of it, of the shape of the target: its Frobenius norm afterwards
        is its norm in the metric."""
        if name in self.metrics:
            return self.metrics[name].whiten(weight)
        return weight.to(torch.float64)


def analyze(
    model: nn.Module,
    example: Any,
    *,
    metric: str = "weight",
    moments: Mapping[str, Moments] | None = None,
    damping: float = DAMPING,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> Analysis:
    """Analyzes a trained network; `example` is a batch of one for counting positions.

    metric: `weight`, or `input` or `fisher`, which need the `moments` of all targets
    (`reached_targets` names them, `collect_moments` collects). damping: of `fisher`.
    A layer that the forward pass never reaches is skipped, with that reason.
    """
    if metric not in METRICS:
        raise LowRankError(f"metric is {metric!r}: {suggest(metric, METRICS)}")
    modules, skipped, positions = reached_targets(model, example, include, exclude)
    targets = {n: describe_target(n, m, positions[n]) for n, m in modules.items()}
    metrics: dict[str, Metric] = {}
    if metric != "weight":
        if moments is None:
            raise LowRankError(f"metric {metric!r} needs calibration data: give its moments")
        metrics = {n: make_metric(metric, moments[n], t, damping) for n, t in targets.items()}
    spectra = {}
    for name, module in modules.items():
        weight = dense_weight(module)
        whitened = metrics[name].whiten(weight) if metrics else weight
        spectra[name] = analyze_weight(whitened, groups_of(module))
    return Analysis(
        metric=metric,
        totals=network_totals(model, example),
        targets=targets,
        spectra=spectra,
        skipped=skipped,
        metrics=metrics,
        damping=damping if metric == "fisher" else None,
    )


def reached_targets(
    model: nn.Module, example: Any, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> tuple[dict[str, nn.Module], dict[str, str], dict[str, tuple[int, ...]]]:
    """({target: module}, {other layer: why it is skipped}, {layer: its positions}).

    Raises LowRankError when no target is left.
    """
    modules, skipped = find_targets(model, include, exclude)
    positions = trace_positions(model, example)
    for name in [n for n in modules if positions.get(n, (0,))[-1] == 0]:
        skipped[name] = "not used in the forward pass"
        del modules[name]
    if not modules:
        raise LowRankError("the model has no layer to factorize: no target is used in its forward")
    return modules, skipped, positions


def save_analysis(folder: Path, analysis: Analysis, weights: WeightSpectra | None = None) -> None:
    """Writes folder/analysis.json (facts and diagnostics) and folder/spectra.safetensors; with
    the spectra of the same targets' weights also those, and their diagnostics."""
    folder.mkdir(parents=True, exist_ok=True)
    save_spectra(folder, analysis.spectra)
    save_metrics(folder, analysis.metrics)
    if weights is not None:
        save_weight_spectra(folder, weights)
    value = {
        "metric": analysis.metric,
        "damping": analysis.damping,
        "network": asdict(analysis.totals),
        "targets": {
            name: target.to_json()
            | {
                "params": target.params,
                "macs": target.macs,
                "squared_norm": analysis.spectra[name].squared_norm,
                "views": {v: _diagnose(view) for v, view in analysis.spectra[name].views.items()},
                "weights": weights.target_json(name) if weights else None,
            }
            for name, target in analysis.targets.items()
        },
        "training": weights.training_json() if weights else None,
        "skipped": dict(analysis.skipped),
    }
    (folder / "analysis.json").write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def load_analysis(folder: Path) -> Analysis:
    """Reads what `save_analysis` wrote. Raises LowRankError when it is missing or damaged."""
    path = folder / "analysis.json"
    try:
        value = json.loads(path.read_text())
        facts = Target.__dataclass_fields__
        return Analysis(
            metric=value["metric"],
            totals=Totals(**value["network"]),
            targets={
                name: Target.from_json({k: v for k, v in entry.items() if k in facts})
                for name, entry in value["targets"].items()
            },
            spectra=load_spectra(folder),
            skipped=value["skipped"],
            metrics=load_metrics(folder) if value["metric"] != "weight" else {},
            damping=value["damping"],
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise LowRankError(f"{path}: not an analysis ({error!r}); rerun analyze") from error


def _diagnose(view: View) -> dict[str, Any]:
    values = view.singular_values
    law = diagnostics.fit_power_law(values)
    return {
        "size": len(values),
        "effective_rank": diagnostics.effective_rank(values),
        "stable_rank": diagnostics.stable_rank(values),
        "power_law": asdict(law) if law else None,
    }
