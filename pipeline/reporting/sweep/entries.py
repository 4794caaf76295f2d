"""What the jobs of a sweep came to, read from the sweep's folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pipeline.reporting.objectives import DIRECTIONS
from pipeline.reporting.run.facts import read_json
from pipeline.reporting.run.measures import Measure, measures
from pipeline.reporting.run.numbers import NETWORKS
from pipeline.reporting.run.summary import read_layers
from pipeline.reporting.sweep.record import read_jobs, read_record
from pipeline.reporting.sweep.status import DONE, LOG


@dataclass(frozen=True)
class Network:
    """`quality` is in the sweep's measure; `macs` are of one example, `latency_ms` (median) and
    `iqr_ms` (interquartile range) of a batch."""

    quality: float
    params: int
    macs: int
    latency_ms: float | None
    iqr_ms: float | None


@dataclass(frozen=True)
class Entry:
    """One job. `options` are those that differ between jobs; `run` is the address of its MLflow
    run, `log` and `folder` are relative to the sweep's folder, ready for a link.

    `dense` and `last` (the network at the end of the chain) are None for a job that is not done,
    or whose network is not measured as the others are; `layers` are the rows of layers.csv.
    """

    number: int
    state: str
    error: str | None
    options: Mapping[str, str]
    run: str | None
    log: str | None
    folder: str
    dense: Network | None
    last: Network | None
    layers: Sequence[Mapping[str, str]]

    @property
    def link(self) -> str:
        """Where a click leads."""
        return self.run or self.log or self.folder


@dataclass(frozen=True)
class Comparison:
    """`options` names what differs between jobs; `measure` is None while no job is done."""

    record: Mapping[str, Any]
    run: str | None
    options: tuple[str, ...]
    measure: Measure | None
    entries: tuple[Entry, ...]

    @property
    def compared(self) -> list[Entry]:
        """The jobs with a network to compare."""
        return [entry for entry in self.entries if entry.last is not None]

    @property
    def higher_is_better(self) -> bool:
        return self.measure is not None and DIRECTIONS[self.measure.key] == "maximize"


def read_comparison(folder: Path) -> Comparison:
    """Reads a sweep, running or ended. Quality is the most telling measure of the first job that
    is done. Raises LowRankError where `folder` is no sweep or a report is missing."""
    record, jobs = read_record(folder), read_jobs(folder)
    metrics = {
        job["job"]: read_json(folder / job["folder"] / "reports/metrics.json")
        for job in jobs
        if job["state"] == DONE
    }
    measure = next((measures(found)[0] for found in metrics.values()), None)
    names = differing([options_of(job["overrides"]) for job in jobs])
    entries = tuple(
        _entry(folder, record, job, names, measure, metrics.get(job["job"])) for job in jobs
    )
    return Comparison(record, _run(record, record["parent_run_id"]), names, measure, entries)


def options_of(overrides: Sequence[str]) -> dict[str, str]:
    """["+seed=1"] → {"seed": "1"}."""
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    return {key: value for key, _, value in pairs}


def differing(options: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The names whose values are not the same in all jobs, in their first order."""
    names = dict.fromkeys(name for job in options for name in job)
    return tuple(name for name in names if len({job.get(name) for job in options}) > 1)


def _entry(
    folder: Path,
    record: Mapping[str, Any],
    job: Mapping[str, Any],
    names: Sequence[str],
    measure: Measure | None,
    metrics: Mapping[str, Any] | None,
) -> Entry:
    place, options = job["folder"], options_of(job["overrides"])
    workspace, timings = folder / place, job.get("timings") or {}
    networks = [_network(metrics, timings, name, measure) for name in (NETWORKS[0], NETWORKS[-1])]
    dense, last = networks if None not in networks else (None, None)
    return Entry(
        number=job["job"],
        state=job["state"],
        error=None if job["state"] == DONE else _last_line(job["error"]),
        options={name: options[name] for name in names if name in options},
        run=_run(record, job["run_id"]),
        log=f"{quote(place)}/{LOG}" if (workspace / LOG).is_file() else None,
        folder=f"{quote(place)}/",
        dense=dense,
        last=last,
        layers=read_layers(workspace / "reports/layers.csv") if last else (),
    )


def _network(
    metrics: Mapping[str, Any] | None,
    timings: Mapping[str, Any],
    name: str,
    measure: Measure | None,
) -> Network | None:
    found = (metrics or {}).get(name, {})
    if measure is None or not math.isfinite(found.get(measure.key, math.nan)):
        return None
    timed = timings.get(name, {})
    return Network(
        quality=float(found[measure.key]),
        params=found["params"],
        macs=found["macs"],
        latency_ms=timed.get("latency_ms"),
        iqr_ms=timed.get("iqr_ms"),
    )


def _last_line(text: str | None) -> str | None:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else None


def _run(record: Mapping[str, Any], run_id: str | None) -> str | None:
    """The address of a run on a tracking server, without any password in the server's; None
    where runs are in a file, or the sweep is older than `experiment_id`."""
    server, experiment = urlsplit(record["tracking_uri"]), record.get("experiment_id")
    if server.scheme not in ("http", "https") or not run_id or not experiment:
        return None
    host = server.netloc.rpartition("@")[2]
    base = f"{server.scheme}://{host}{server.path.rstrip('/')}"
    return f"{base}/#/experiments/{quote(experiment)}/runs/{quote(run_id)}"


def states(entries: Sequence[Entry]) -> str:
    """8 jobs: 7 done, 1 failed."""
    counted = Counter(entry.state for entry in entries)
    jobs = f"{len(entries)} job{'' if len(entries) == 1 else 's'}"
    return f"{jobs}: {', '.join(f'{count} {state}' for state, count in counted.items())}"
