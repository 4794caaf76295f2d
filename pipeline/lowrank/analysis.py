"""Analysis: what is known of every target before any method, policy or budget is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.lowrank import diagnostics
from pipeline.lowrank.cost import Totals, describe_target, network_totals, trace_positions
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.spectrum import Spectra, View, analyze_weight, load_spectra, save_spectra
from pipeline.lowrank.target import Target, dense_weight, find_targets, groups_of
from pipeline.lowrank.weights import WeightSpectra, save_weight_spectra

METRICS = ("weight",)


@dataclass(frozen=True)
class Analysis:
    """Targets with their spectra in one metric, the dense network's totals, and why other
    layers are left alone."""

    metric: str
    totals: Totals
    targets: Mapping[str, Target]
    spectra: Mapping[str, Spectra]
    skipped: Mapping[str, str]


def analyze(
    model: nn.Module,
    example: Any,
    *,
    metric: str = "weight",
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> Analysis:
    """Analyzes a trained network; `example` is a batch of one for counting positions.

    A layer that the forward pass never reaches is skipped, with that reason.
    """
    if metric not in METRICS:
        raise LowRankError(f"metric is {metric!r}: choose one of {', '.join(METRICS)}")
    modules, skipped = find_targets(model, include, exclude)
    positions = trace_positions(model, example)
    for name in [n for n in modules if positions.get(n, (0,))[-1] == 0]:
        skipped[name] = "not used in the forward pass"
        del modules[name]
    if not modules:
        raise LowRankError("the model has no layer to factorize: no target is used in its forward")
    return Analysis(
        metric=metric,
        totals=network_totals(model, example),
        targets={n: describe_target(n, m, positions[n]) for n, m in modules.items()},
        spectra={n: analyze_weight(dense_weight(m), groups_of(m)) for n, m in modules.items()},
        skipped=skipped,
    )


def save_analysis(folder: Path, analysis: Analysis, weights: WeightSpectra | None = None) -> None:
    """Writes folder/analysis.json (facts and diagnostics) and folder/spectra.safetensors; with
    the spectra of the same targets' weights also those, and their diagnostics."""
    folder.mkdir(parents=True, exist_ok=True)
    save_spectra(folder, analysis.spectra)
    if weights is not None:
        save_weight_spectra(folder, weights)
    value = {
        "metric": analysis.metric,
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
