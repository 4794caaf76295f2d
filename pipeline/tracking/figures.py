"""The metrics of a run in MLflow: names of metrics.json in groups, GROUP/NAME."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pipeline.evaluation.timings import Timings
from pipeline.lowrank.planning.plan import Plan
from pipeline.machine.durations import durations
from pipeline.reporting.run.metrics import FILE, NETWORKS, Size, read_metrics
from pipeline.tracking.store import flatten

_SIZES = {field.name for field in fields(Size)}
# Of the numbers of metrics.json that stand alone, those that are no measure of quality.
_ALONE = {
    "compression_ratio": "size",
    "macs_ratio": "size",
    "file_ratio": "size",
    "layers_factorized": "plan",
    "max_relative_error": "bounds",
    "mean_bound_tightness": "bounds",
}


def figures(root: Path, timings: Timings, plan: Plan) -> dict[str, float]:
    """All numbers of the run in `root` by their names in MLflow.

    What metrics.json calls `fine_tuned.accuracy` is `quality/fine_tuned.accuracy`, and so on for
    sizes, latencies, bounds and the rest; `seconds/STAGE` is how long a stage took.
    """
    value = read_metrics(root / "reports" / FILE).to_json()
    found = {grouped(name): number for name, number in _numbers(value)}
    for network, latency in timings.networks.items():
        told = {**asdict(latency), "busy": latency.busy}
        found |= {f"latency/{network}.{name}": number for name, number in _numbers(told)}
    found |= {
        f"latency/{name}": float(number)
        for name, number in (
            ("speedup", timings.speedup),
            ("batch_size", timings.batch_size),
            ("tokens", timings.tokens),
        )
        if number is not None
    }
    if plan.optimality_gap is not None:
        found["plan/optimality_gap"] = plan.optimality_gap
    return found | {f"seconds/{stage}": seconds for stage, seconds in durations(root).items()}


def grouped(name: str) -> str:
    """The name in MLflow of a number of metrics.json, whose keys are joined by dots."""
    first, _, rest = name.partition(".")
    if first in NETWORKS:
        return f"{'size' if rest in _SIZES else 'quality'}/{name}"
    if rest:
        return f"{'bounds' if first == 'output_error' else first}/{rest}"
    return f"{_ALONE.get(name, 'quality')}/{name}"


def _numbers(value: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, item in flatten(value):
        if isinstance(item, int | float):
            yield name, float(item)
