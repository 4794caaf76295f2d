"""What a sweep's folder says of it: sweep.json, and the status of every job.

sweep.json is what everything else about a sweep starts from (docs/sweeps.md describes it).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.lowrank.errors import LowRankError
from pipeline.reporting.sweep.status import DONE, FILE, read_status

RECORD = "sweep.json"
FORMAT = 1


def read_record(folder: Path) -> dict[str, Any]:
    """The sweep.json of a sweep. Raises LowRankError where there is none."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except FileNotFoundError as error:
        raise LowRankError(
            f"{folder}: no sweep ({RECORD} is missing); give the folder that a sweep named"
        ) from error
    return record


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """The status of each job that has begun, by number, with its `folder` in the sweep's."""
    found = []
    for directory, below, files in os.walk(folder):
        if FILE in files:
            below.clear()  # workspaces hold no jobs
            workspace = Path(directory)
            status = read_status(workspace)
            found.append({**status, "folder": str(workspace.relative_to(folder))})
    return sorted(found, key=lambda status: status["job"])


def count(jobs: Sequence[dict[str, Any]]) -> Counter[str]:
    """Jobs by state; `cached` counts, among the done ones, those that computed nothing."""
    counted = Counter(job["state"] for job in jobs)
    counted["cached"] = sum(is_cached(job) for job in jobs)
    return counted


def is_cached(job: dict[str, Any]) -> bool:
    return job["state"] == DONE and "ran" not in job["stages"].values()
