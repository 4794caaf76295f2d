"""The records in a sweep's folder: sweep.json, and the status of every job.

Everything else about a sweep starts from sweep.json (docs/sweeps.md describes it).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import load_record
from pipeline.reporting.sweep.status import DONE, FILE, JobStatus, read_status

RECORD = "sweep.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class JobRecord(JobStatus):
    """A job's status and its `folder`, relative to the sweep's."""

    folder: str


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """The content of sweep.json; docs/sweeps.md describes the fields. `experiment_id` is None in
    records of older versions."""

    format: int = FORMAT
    state: str
    overrides: tuple[str, ...]
    objectives: tuple[str, ...]
    total: int | None
    started: float
    ended: float | None = None
    parent_run_id: str
    experiment: str
    experiment_id: str | None = None
    tracking_uri: str
    jobs: tuple[JobRecord, ...] = ()


def read_record(folder: Path) -> SweepRecord:
    """The sweep.json of a sweep. Raises LowRankError where there is none."""
    path = folder / RECORD
    if not path.is_file():
        raise LowRankError(
            f"{folder}: no sweep ({RECORD} is missing); give the folder that a sweep named"
        )
    return load_record(path, SweepRecord, "give the folder that a sweep named")


def read_jobs(folder: Path) -> tuple[JobRecord, ...]:
    """The status of each job that has begun, by number."""
    found = []
    for directory, below, files in os.walk(folder):
        if FILE in files:
            below.clear()  # workspaces hold no jobs
            workspace = Path(directory)
            place = str(workspace.relative_to(folder))
            found.append(JobRecord(**vars(read_status(workspace)), folder=place))
    return tuple(sorted(found, key=lambda job: job.job))


def count(jobs: Sequence[JobStatus]) -> Counter[str]:
    """Jobs by state; `cached` counts, among the done ones, those that computed nothing."""
    counted = Counter(job.state for job in jobs)
    counted["cached"] = sum(is_cached(job) for job in jobs)
    return counted


def is_cached(job: JobStatus) -> bool:
    return job.state == DONE and "ran" not in job.stages.values()
