"""Latencies that a busy machine spoilt, measured again: of a run, or of a sweep's jobs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from pipeline.evaluation.timings import Timings
from pipeline.reporting.sweep.record import read_jobs, read_record
from pipeline.reporting.sweep.status import DONE, read_status, write_status
from pipeline.tracking.run import measured


def measure_run(workspace: Path) -> str:
    """Measures the latencies of a run, unless they are known from a quiet machine; says how it
    went."""
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    return _told(measured(workspace, params, again_if_busy=True))


def measure_again(sweep: Path) -> Iterator[str]:
    """Measures the latencies of the jobs that are done and whose machine was busy, one job after
    the other, and writes them into their status; a line for each. Raises LowRankError where `sweep`
    is no sweep."""
    read_record(sweep)
    for job in read_jobs(sweep):
        if job.state != DONE or job.timings is None or not job.timings.busy:
            continue
        workspace = sweep / job.folder
        params = yaml.safe_load((workspace / "params.yaml").read_text())
        timings = measured(workspace, params, again_if_busy=True)
        write_status(workspace, replace(read_status(workspace), timings=timings))
        yield f"job {job.job}: {_told(timings)}"


def _told(timings: Timings) -> str:
    if timings.busy:
        return "measured again, the machine is busy still"
    return f"measured again, {timings.speedup:.2f} times as fast"
