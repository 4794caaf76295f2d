"""A sweep in MLflow: one run for the sweep, and the runs of its jobs found from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import TAG_SWEEP, open_client, tracking_uri, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient


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

    The run is ended as soon as it exists: its children say how the sweep goes. A sweep that is
    resumed keeps its run (`parent`) if the store still has it.
    """
    client, experiment = open_client(track)
    if parent is None or not _is_there(client, parent):
        tags = {"lowrank.sweep": str(folder), "lowrank.overrides": " ".join(overrides)}
        run = client.create_run(experiment, run_name=f"sweep {folder.name}", tags=tags)
        parent = run.info.run_id
        client.set_terminated(parent, "FINISHED")
    place = without_password(tracking_uri(track))
    return SweepRun(parent, track.experiment, experiment, place)


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
