"""The results of a sweep's jobs, read from the sweep's folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import yaml

from pipeline.data.files import DATA_JSON, DataFacts, load_facts
from pipeline.evaluation.timings import Latency
from pipeline.lowrank.tasks.measure import Measure
from pipeline.reporting.intervals import Interval, interval
from pipeline.reporting.run.layers import LayerRow, read_layers
from pipeline.reporting.run.measures import measures
from pipeline.reporting.run.metrics import FILE as METRICS
from pipeline.reporting.run.metrics import Metrics, Network, read_metrics
from pipeline.reporting.run.page.write import PAGE
from pipeline.reporting.run.story import subject_of
from pipeline.reporting.sweep.record import JobRecord, SweepRecord, read_jobs, read_record
from pipeline.reporting.sweep.status import DONE, LOG


@dataclass(frozen=True)
class NetworkFigures:
    """`quality` is in the sweep's measure; `macs` are of one example, `latency_ms` (median) and
    `iqr_ms` (interquartile range) of a batch; `busy` says that the machine was, meanwhile;
    `interval` is that of the quality, where one is known."""

    quality: float
    params: int
    macs: int
    latency_ms: float | None
    iqr_ms: float | None
    busy: bool = False
    interval: Interval | None = None


@dataclass(frozen=True)
class Entry:
    """One job of a sweep.

    options: those that differ between jobs.
    run: the address of the job's MLflow run.
    page, log, folder: relative to the sweep's folder, ready for a link.
    dense, last: figures of the dense network and of the last one of the chain; None for a job that
        is not done, or whose network is not measured as the others are. `layers` are there where
        these are.
    """

    number: int
    state: str
    error: str | None
    options: Mapping[str, str]
    run: str | None
    page: str | None
    log: str | None
    folder: str
    dense: NetworkFigures | None
    last: NetworkFigures | None
    layers: Sequence[LayerRow]


@dataclass(frozen=True)
class Comparison:
    """`subject`: what the sweep compresses, in words, as the first job has it; "" before it.
    `options` names what differs between jobs; `measure` is None while no job is done."""

    record: SweepRecord
    subject: str
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
        return self.measure is not None and self.measure.direction == "maximize"


def read_comparison(folder: Path) -> Comparison:
    """Reads a sweep, running or ended. Quality is the most telling measure of the first job that
    is done. Raises LowRankError where `folder` is no sweep or a report is missing."""
    record, jobs = read_record(folder), read_jobs(folder)
    metrics = {
        job.job: read_metrics(folder / job.folder / "reports" / METRICS)
        for job in jobs
        if job.state == DONE
    }
    first = next(iter(metrics.values()), None)
    measure = None if first is None else measures(first.dense.scores, first.measures)[0]
    names = differing([options_of(job.overrides) for job in jobs])
    entries = tuple(
        _entry(folder, record, job, names, measure, metrics.get(job.job)) for job in jobs
    )
    run = _run(record, record.parent_run_id)
    subject = _subject([folder / job.folder / "params.yaml" for job in jobs])
    return Comparison(record, subject, run, names, measure, entries)


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
    record: SweepRecord,
    job: JobRecord,
    names: Sequence[str],
    measure: Measure | None,
    metrics: Metrics | None,
) -> Entry:
    place, options, timings = job.folder, options_of(job.overrides), job.timings
    workspace, dense, last = folder / place, None, None
    if metrics is not None and measure is not None:
        data = _data(workspace)
        dense = _figures(metrics.dense, timings.dense if timings else None, measure, data)
        last = _figures(metrics.fine_tuned, timings.fine_tuned if timings else None, measure, data)
    if dense is None or last is None:
        dense = last = None
    return Entry(
        number=job.job,
        state=job.state,
        error=None if job.state == DONE else _last_line(job.error),
        options={name: options[name] for name in names if name in options},
        run=_run(record, job.run_id),
        page=_there(workspace, place, f"reports/{PAGE}"),
        log=_there(workspace, place, LOG),
        folder=f"{quote(place)}/",
        dense=dense,
        last=last,
        layers=read_layers(workspace / "reports") if last else (),
    )


def _there(workspace: Path, place: str, file: str) -> str | None:
    return f"{quote(place)}/{file}" if (workspace / file).is_file() else None


def _subject(files: Sequence[Path]) -> str:
    """Of the first job that has its configuration; one that was refused before it began has
    none."""
    text = next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)
    return "" if text is None else subject_of(yaml.load(text, Loader=yaml.CSafeLoader))


def _data(workspace: Path) -> DataFacts | None:
    """The facts of a job's data; None where its outputs were removed since."""
    folder = workspace / "out/data"
    return load_facts(folder) if (folder / DATA_JSON).is_file() else None


def _figures(
    network: Network, latency: Latency | None, measure: Measure, data: DataFacts | None
) -> NetworkFigures | None:
    """The figures of a network; None where it has no finite score in the measure."""
    quality = network.scores.get(measure.name, math.nan)
    if not math.isfinite(quality):
        return None
    return NetworkFigures(
        quality=quality,
        params=network.size.params,
        macs=network.size.macs,
        latency_ms=latency.latency_ms if latency else None,
        iqr_ms=latency.iqr_ms if latency else None,
        busy=latency is not None and latency.busy,
        interval=interval(measure, network.scores, data.task, data.sizes["test"]) if data else None,
    )


def _last_line(text: str | None) -> str | None:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else None


def _run(record: SweepRecord, run_id: str | None) -> str | None:
    """The address of a run on a tracking server, without any password in the server's; None
    where runs are in a file, or the sweep is older than `experiment_id`."""
    server, experiment = urlsplit(record.tracking_uri), record.experiment_id
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
