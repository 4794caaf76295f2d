"""A sweep's folder: sweep.json, one workspace a job, and how jobs are told to stop.

sweep.json is what everything else about a sweep starts from (docs/sweeps.md describes it).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.lowrank.errors import LowRankError
from pipeline.orchestration.status import (
    DONE,
    FAILED,
    FILE,
    RUNNING,
    STOPPED,
    is_alive,
    read_status,
    update_status,
    write_whole,
)
from pipeline.orchestration.sweep_tracking import begin_sweep_run, end_sweep_run

RECORD = "sweep.json"
# Jobs, on whatever machine, end when this file appears in the sweep's folder.
STOP = ".stop"
FORMAT = 1
_PATIENCE = 15.0  # seconds: a job's children are asked first and killed after five


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


@contextmanager
def opened(folder: Path, described: dict[str, Any], root: Path) -> Iterator[dict[str, Any]]:
    """The sweep's record, kept in sweep.json from beginning to end; only one launcher at a time.

    `described` has `overrides`, `objectives`, `total` and `track`. The sweep's MLflow run is
    created and ended here, before any job starts: that also creates the store, which two jobs
    must not do at once. On the way out whatever still runs is stopped; set `interrupted` in the
    record before where that is the user's wish.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise LowRankError(f"{folder}: this sweep is running already") from error
    try:
        (folder / STOP).unlink(missing_ok=True)
        record = _begin(folder, described, root)
        try:
            yield record
        finally:
            # On Ctrl-C some launchers kill their workers: such jobs did not fail by themselves.
            stop_jobs(folder, STOPPED if record.pop("interrupted", False) else FAILED)
            record.update(state=_outcome(folder, record), ended=time.time())
            record["jobs"] = read_jobs(folder)
            write_whole(folder / RECORD, record)
            end_sweep_run(described["track"], folder / RECORD)
    finally:
        lock.release()


def _begin(folder: Path, described: dict[str, Any], root: Path) -> dict[str, Any]:
    known = read_record(folder) if (folder / RECORD).is_file() else {}
    # Not to be taken for what the jobs do now: numbers belong to the overrides.
    for job in read_jobs(folder):
        update_status(folder / job["folder"], state=STOPPED, error="not reached yet")
    os.environ["LOWRANK_ROOT"] = str(root)
    record = {
        "format": FORMAT,
        "state": RUNNING,
        "overrides": list(described["overrides"]),
        "objectives": list(described["objectives"]),
        "total": described["total"],
        "started": time.time(),
        "ended": None,
        **begin_sweep_run(described["track"], folder, described["overrides"], known),
        "jobs": [],
    }
    write_whole(folder / RECORD, record)
    return record


def stop_jobs(folder: Path, dead: str = FAILED) -> None:
    """Ends the jobs that still run and waits for them. Those whose process is gone without a
    word get the state `dead`."""
    deadline = None
    while running := [job for job in read_jobs(folder) if job["state"] == RUNNING]:
        for job in running:
            if not is_alive(job):
                update_status(
                    folder / job["folder"],
                    state=dead,
                    stage=None,
                    error="the job's process was killed",
                    ended=time.time(),
                )
        if deadline is None:
            (folder / STOP).touch()
            deadline = time.monotonic() + _PATIENCE
        elif time.monotonic() > deadline:
            for job in running:
                if job["host"] == socket.gethostname():
                    with suppress(ProcessLookupError):
                        os.kill(job["pid"], signal.SIGKILL)
            return
        time.sleep(0.1)


def count(jobs: Sequence[dict[str, Any]]) -> Counter[str]:
    """Jobs by state; `cached` counts, among the done ones, those that computed nothing."""
    counted = Counter(job["state"] for job in jobs)
    counted["cached"] = sum(is_cached(job) for job in jobs)
    return counted


def is_cached(job: dict[str, Any]) -> bool:
    return job["state"] == DONE and "ran" not in job["stages"].values()


def _outcome(folder: Path, record: dict[str, Any]) -> str:
    states = count(read_jobs(folder))
    if states[FAILED]:
        return FAILED
    complete = record["total"] is None or states[DONE] == record["total"]
    return DONE if complete and states[DONE] and not states[STOPPED] else STOPPED
