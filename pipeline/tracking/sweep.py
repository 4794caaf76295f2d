"""A sweep in MLflow: one run for the sweep, and the runs of its jobs found from it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reporting.sweep.record import SweepRecord, count
from pipeline.reporting.sweep.status import DONE, FAILED, STOPPED
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import NOTE, TAG_SWEEP, open_client, tracking_uri, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A state of a sweep, as MLflow says it.
_STATUS = {DONE: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}
_MOST, _LONGEST = 7000, 80  # characters of a description (MLflow keeps 8000) and of a name


@dataclass(frozen=True)
class SweepRun:
    """The MLflow run of a sweep, and where it is."""

    parent_run_id: str
    experiment: str
    experiment_id: str
    tracking_uri: str


def begin_sweep_run(
    track: TrackOptions, folder: Path, overrides: Sequence[str], parent: str | None
) -> SweepRun:
    """The run of a sweep, a new one or that of the sweep that is resumed.

    It runs until `end_sweep_run`. A sweep that is resumed keeps its run (`parent`) if the store
    still has it.
    """
    client, experiment = open_client(track)
    if parent is None or not _is_there(client, parent):
        tags = {"lowrank.sweep": str(folder), "lowrank.overrides": " ".join(overrides)}
        run = client.create_run(experiment, run_name=_name(folder, overrides), tags=tags)
        parent = run.info.run_id
    else:
        client.update_run(parent, status="RUNNING")
    place = without_password(tracking_uri(track))
    return SweepRun(parent, track.experiment, experiment, place)


def end_sweep_run(track: TrackOptions, record: SweepRecord, directions: Sequence[str]) -> None:
    """Ends the sweep's run as the sweep ended, with the best job by each objective as metrics, and
    the failed jobs with their errors in its description.

    directions: "maximize" or "minimize", of the record's objectives.
    """
    client, _ = open_client(track)
    run_id, counted = record.parent_run_id, count(record.jobs)
    for state in (DONE, FAILED, STOPPED):
        client.log_metric(run_id, f"jobs/{state}", counted[state])
    lines = [f"{len(record.jobs)} jobs: {counted[DONE]} done, {counted[FAILED]} failed."]
    for name, direction in zip(record.objectives, directions, strict=True):
        jobs = [job for job in record.jobs if job.state == DONE and name in job.objectives]
        if not jobs:
            continue
        sign = 1 if direction == "minimize" else -1
        best = min(jobs, key=lambda job: sign * job.objectives[name])
        client.log_metric(run_id, f"best/{name}", best.objectives[name])
        client.log_metric(run_id, f"best/{name}.job", best.job)
        chosen = shlex.join(["python", "-m", "pipeline", *best.overrides])
        lines.append(f"Best {name}: {best.objectives[name]:.6g}, job {best.job}: `{chosen}`")
    failed = [job for job in record.jobs if job.state == FAILED]
    lines += [f"Job {job.job} failed: {job.error}" for job in failed]
    client.set_tag(run_id, NOTE, "\n\n".join(lines)[:_MOST])
    client.set_terminated(run_id, _STATUS[record.state])


def _name(folder: Path, overrides: Sequence[str]) -> str:
    """What is swept, and when."""
    swept = " ".join(one for one in overrides if not one.startswith("hydra"))
    return f"sweep {swept[:_LONGEST]} {folder.name}".replace("  ", " ")


def log_to_sweep(track: TrackOptions, parent: str, files: Sequence[Path]) -> None:
    """Logs files as artifacts of the sweep's run."""
    client, _ = open_client(track)
    for file in files:
        client.log_artifact(parent, str(file))


def _is_there(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException:
        return False
    return True


def link_to_sweep(track: TrackOptions, run_id: str, parent: str, job: int) -> None:
    """Tags a run as job number `job` of the sweep whose run is `parent`.

    An earlier run of the same result stays where it is and is linked: searching for the tag
    `lowrank.sweep.PARENT` finds all runs of a sweep, new and old.
    """
    client, _ = open_client(track)
    client.set_tag(run_id, TAG_SWEEP + parent, job)
