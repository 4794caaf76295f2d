"""The state of a job, on disk: one small JSON file in its workspace, which is replaced as a whole.

Everyone who watches a sweep (the launcher's live view, the comparison, a person with cat) reads
these files: they look the same under every launcher, on one machine or on a shared file system.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.evaluation.timings import Timings
from pipeline.lowrank.typed import load_record, save_record

FILE = "status.json"
LOG = "job.log"
# Of a job that ends well, and of one that did not: failed by itself, or was ended by others.
DONE, FAILED, STOPPED, RUNNING = "done", "failed", "stopped", "running"


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """The content of status.json; docs/sweeps.md describes the fields."""

    job: int
    overrides: tuple[str, ...]
    state: str
    stage: str | None = None
    stages: Mapping[str, str] = field(default_factory=dict)
    started: float
    ended: float | None = None
    host: str
    pid: int
    run_id: str | None = None
    objectives: Mapping[str, float] = field(default_factory=dict)
    timings: Timings | None = None
    error: str | None = None
    log: str | None = None


def read_status(workspace: Path) -> JobStatus:
    """The job's status. Raises LowRankError where no job has begun."""
    return load_record(workspace / FILE, JobStatus, "no job has begun here")


def write_status(workspace: Path, status: JobStatus) -> None:
    """Writes a job's status. A job has one writer at a time: its own process, or the runner for
    which that process waits."""
    save_record(workspace / FILE, status)


def is_alive(status: JobStatus) -> bool:
    """Whether the process of a running job exists; on another machine it is taken to exist."""
    if status.host != socket.gethostname():
        return True
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
