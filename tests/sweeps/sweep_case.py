"""A sweep's folder as jobs leave it, without running one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.reporting.run.write import LAYER_COLUMNS
from pipeline.reporting.sweep.status import LOG, update_status, write_whole

DENSE = {"accuracy": 0.98, "loss": 0.05, "params": 10_000, "macs": 200_000}
LAYERS = ("conv1", "conv2", "head")


def make_sweep(folder: Path, **changes: Any) -> None:
    """sweep.json of a sweep with runs on a tracking server."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": 1, "state": "done", "overrides": ["rank_select.budget=0.1,0.2"],
        "objectives": ["accuracy"], "total": None, "started": 1_700_000_000.0,
        "ended": 1_700_000_100.0, "parent_run_id": "parent", "experiment": "lowrank",
        "experiment_id": "7", "tracking_uri": "http://127.0.0.1:5000/", "jobs": [],
    }  # fmt: skip
    write_whole(folder / "sweep.json", record | changes)


def add_job(
    sweep: Path,
    number: int,
    last: Mapping[str, Any] | None,
    *,
    latency: float | None = None,
    iqr: float = 0.1,
    dense: Mapping[str, Any] = DENSE,
    layers: tuple[str, ...] = LAYERS,
    **changes: Any,
) -> None:
    """A job whose networks are `dense` and `last`; of a job without `last` there is no report.
    `latency` and `iqr` are in milliseconds, the dense network's are 2 and 0.1."""
    folder = sweep / str(number)
    (folder / "reports").mkdir(parents=True)
    (folder / LOG).write_text("said\n")
    timings = {
        "dense": {"latency_ms": 2.0, "iqr_ms": 0.1},
        "fine_tuned": {"latency_ms": latency, "iqr_ms": iqr},
    }
    update_status(
        folder, job=number, overrides=[f"rank_select.budget=0.{number}", "fine_tune=none"],
        state="done", stage=None, stages={}, started=100.0, ended=112.0, run_id=f"run{number}",
        objectives={}, timings=timings if latency else None, error=None, log=LOG,
    )  # fmt: skip
    update_status(folder, **changes)
    if last is not None:
        networks = {"dense": dict(dense), "compressed": dict(last), "fine_tuned": dict(last)}
        (folder / "reports/metrics.json").write_text(json.dumps(networks))
        _write_layers(folder / "reports/layers.csv", layers, number)


def _write_layers(path: Path, names: tuple[str, ...], number: int) -> None:
    lines = [",".join(LAYER_COLUMNS)]
    for place, name in enumerate(names):
        method, ranks, params = ("svd", "3", 100 + number) if place else ("dense", "", 1000)
        row = {"name": f'"{name}"', "method": method, "ranks": ranks, "dense_params": 1000,
               "params": params}  # fmt: skip
        lines.append(",".join(str(row.get(column, "")) for column in LAYER_COLUMNS))
    path.write_text("\n".join(lines) + "\n")
