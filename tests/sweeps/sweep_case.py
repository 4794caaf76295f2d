"""A sweep's folder as jobs leave it, without running one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.files import DATA_JSON, DataFacts
from pipeline.evaluation.timings import Latency, Timings
from pipeline.lowrank.planning.timing.device import Device
from pipeline.lowrank.typed import save_record
from pipeline.reporting.run.layers import LayerRow, LayerTable
from pipeline.reporting.run.metrics import Metrics, Network, OutputError, Size, SpectraFigures
from pipeline.reporting.sweep.record import RECORD, SweepRecord
from pipeline.reporting.sweep.status import DONE, LOG, JobStatus, write_status
from stages._io import write_json

DENSE = {"accuracy": 0.98, "loss": 0.05, "params": 10_000, "macs": 200_000}
LAYERS = ("conv1", "conv2", "head")


def make_sweep(folder: Path, **changes: Any) -> None:
    """sweep.json of a sweep with runs on a tracking server."""
    record = SweepRecord(
        state=DONE,
        overrides=("rank_select.budget=0.1,0.2",),
        objectives=("accuracy",),
        total=None,
        started=1_700_000_000.0,
        ended=1_700_000_100.0,
        parent_run_id="parent",
        experiment="lowrank",
        experiment_id="7",
        tracking_uri="http://127.0.0.1:5000/",
    )
    save_record(folder / RECORD, replace(record, **changes))


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
    folder.mkdir(parents=True)
    (folder / LOG).write_text("said\n")
    status = JobStatus(
        job=number,
        overrides=(f"rank_select.budget=0.{number}", "fine_tune=none"),
        state=DONE,
        started=100.0,
        ended=112.0,
        host="here",
        pid=1,
        run_id=f"run{number}",
        timings=timings_of(Latency(latency, iqr)) if latency else None,
        log=LOG,
    )
    write_status(folder, replace(status, **changes))
    params = {"model": {"_target_": "my.Net"}, "data": {"name": "digits"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    facts = DataFacts("digits", "classification", "scans", (8,), {"test": 360}, {})
    save_record(folder / "out/data" / DATA_JSON, facts)
    if last is not None:
        write_json(folder / "reports/metrics.json", _metrics(dense, last).to_json())
        rows = tuple(_row(name, place, number) for place, name in enumerate(layers))
        save_record(folder / "reports/layers.json", LayerTable(rows))


def timings_of(last: Latency) -> Timings:
    machine = Device("abacus", 2, "Linux", "2", threads=1)
    return Timings(machine, {}, 32, Latency(2.0, 0.1), last, last, speedup=2.0 / last.latency_ms)


def _metrics(dense: Mapping[str, Any], last: Mapping[str, Any]) -> Metrics:
    networks = [_network(figures) for figures in (dense, last, last)]
    spectra, error = SpectraFigures(3, 0.5, 0, 0), OutputError(certified=False, measured=1.0)
    return Metrics(*networks, 1.0, 1.0, 1.0, 2, 0.5, spectra, error)


def _network(figures: Mapping[str, Any]) -> Network:
    scores = {key: value for key, value in figures.items() if key not in ("params", "macs")}
    return Network(scores, Size(figures["params"], figures["macs"], file_bytes=1))


def _row(name: str, place: int, number: int) -> LayerRow:
    """The first layer stays dense."""
    method, ranks, params = ("svd", (3,), 100 + number) if place else ("dense", (), 1000)
    return LayerRow(
        name=name,
        kind="linear",
        shape="20x50",
        method=method,
        ranks=ranks,
        dense_params=1000,
        params=params,
        dense_macs=1000,
        macs=params,
        predicted_relative_error=0.1,
        measured_relative_error=0.1,
        lower_bound=0.1,
        upper_bound=0.1,
        refit_correction=None,
        output_error_measured=None,
        output_error_bound=None,
        output_error_theorem=None,
        cp_rank_limit=None,
        cp_unique=None,
        why="",
    )
