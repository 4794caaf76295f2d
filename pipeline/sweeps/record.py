"""A sweep's folder: sweep.json, one workspace a job, and the file that tells jobs to stop.

Everything else about a sweep starts from sweep.json (docs/sweeps.md describes it).
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import save_record
from pipeline.reporting.sweep.record import (
    RECORD,
    JobRecord,
    SweepRecord,
    count,
    read_jobs,
    read_record,
)
from pipeline.reporting.sweep.status import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    is_alive,
    read_status,
    write_status,
)
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.sweep import begin_sweep_run, end_sweep_run, log_to_sweep

# Jobs on all machines end when this file appears in the sweep's folder.
STOP = ".stop"
_PATIENCE = 15.0  # seconds: a job's children are asked first and killed after five


@dataclass(frozen=True)
class SweepDescription:
    """The sweep that a command asks for; `directions` are those of the objectives; `total` is the
    number of jobs, None where only the sweeper knows it."""

    folder: Path
    overrides: tuple[str, ...]
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    track: TrackOptions
    total: int | None


@dataclass
class OpenSweep:
    """A sweep that runs: its record, and whether the user wished it to end."""

    record: SweepRecord
    interrupted: bool = False


@contextmanager
def opened(folder: Path, described: SweepDescription, root: Path) -> Iterator[OpenSweep]:
    """The sweep, its record kept in sweep.json from beginning to end; only one launcher at a time.

    The sweep's MLflow run is created before any job starts: that also creates the store, which two
    jobs must not do at once. It ends with the sweep. On the way out all jobs that still run are
    stopped; set `interrupted` before where that is the user's wish.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise LowRankError(f"{folder}: this sweep is running already") from error
    try:
        (folder / STOP).unlink(missing_ok=True)
        sweep = OpenSweep(_begin(folder, described, root))
        try:
            yield sweep
        finally:
            # On Ctrl-C some launchers kill their workers: such jobs did not fail by themselves.
            stop_jobs(folder, STOPPED if sweep.interrupted else FAILED)
            sweep.record = _ended(sweep.record, read_jobs(folder))
            save_record(folder / RECORD, sweep.record)
            log_to_sweep(described.track, sweep.record.parent_run_id, [folder / RECORD])
            end_sweep_run(described.track, sweep.record, described.directions)
    finally:
        lock.release()


def _begin(folder: Path, described: SweepDescription, root: Path) -> SweepRecord:
    parent = read_record(folder).parent_run_id if (folder / RECORD).is_file() else None
    # Not to be taken for what the jobs do now: numbers belong to the overrides.
    for job in read_jobs(folder):
        _change(folder, job, state=STOPPED, error="not reached yet")
    os.environ["LOWRANK_ROOT"] = str(root)
    run = begin_sweep_run(described.track, folder, described.overrides, parent)
    record = SweepRecord(
        state=RUNNING,
        overrides=tuple(described.overrides),
        objectives=tuple(described.objectives),
        total=described.total,
        started=time.time(),
        parent_run_id=run.parent_run_id,
        experiment=run.experiment,
        experiment_id=run.experiment_id,
        tracking_uri=run.tracking_uri,
    )
    save_record(folder / RECORD, record)
    return record


def _change(folder: Path, job: JobRecord, *, state: str, error: str, ended: bool = False) -> None:
    """Notes in a job's status that its state is another, and perhaps that it ended now."""
    status = replace(read_status(folder / job.folder), state=state, error=error)
    if ended:
        status = replace(status, stage=None, ended=time.time())
    write_status(folder / job.folder, status)


def stop_jobs(folder: Path, dead: str = FAILED) -> None:
    """Ends the jobs that still run and waits for them. Those whose process is gone without a
    word get the state `dead`."""
    deadline = None
    while running := [job for job in read_jobs(folder) if job.state == RUNNING]:
        for job in running:
            if not is_alive(job):
                killed = "the job's process was killed"
                _change(folder, job, state=dead, error=killed, ended=True)
        if deadline is None:
            (folder / STOP).touch()
            deadline = time.monotonic() + _PATIENCE
        elif time.monotonic() > deadline:
            for job in running:
                if job.host == socket.gethostname():
                    with suppress(ProcessLookupError):
                        os.kill(job.pid, signal.SIGKILL)
            return
        time.sleep(0.1)


def _ended(record: SweepRecord, jobs: tuple[JobRecord, ...]) -> SweepRecord:
    return replace(record, state=_outcome(record.total, count(jobs)), ended=time.time(), jobs=jobs)


def _outcome(total: int | None, states: Counter[str]) -> str:
    if states[FAILED]:
        return FAILED
    complete = total is None or states[DONE] == total
    return DONE if complete and states[DONE] and not states[STOPPED] else STOPPED
