"""A sweep's folder: sweep.json, one workspace a job, and how jobs are told to stop.

sweep.json is what everything else about a sweep starts from (docs/sweeps.md describes it).
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.lowrank.errors import LowRankError
from pipeline.reporting.sweep.record import FORMAT, RECORD, count, read_jobs, read_record
from pipeline.reporting.sweep.status import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    is_alive,
    update_status,
    write_whole,
)
from pipeline.tracking.sweep import begin_sweep_run, end_sweep_run

# Jobs, on whatever machine, end when this file appears in the sweep's folder.
STOP = ".stop"
_PATIENCE = 15.0  # seconds: a job's children are asked first and killed after five


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


def _outcome(folder: Path, record: dict[str, Any]) -> str:
    states = count(read_jobs(folder))
    if states[FAILED]:
        return FAILED
    complete = record["total"] is None or states[DONE] == record["total"]
    return DONE if complete and states[DONE] and not states[STOPPED] else STOPPED
