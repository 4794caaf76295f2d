"""Curves in MLflow while a network trains.

A live run is a convenience beside the outputs, not one of them: it is noted in
./.live_run.json, resumed and completed by track, and logged anew from the files where a stage
came from the cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.orchestration.store import TAG_CONFIG, config_hash, open_client, parent_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

Log = Callable[[dict[str, float], int], None]

NOTE = Path(".live_run.json")


@contextmanager
def curve_logger(stage: str) -> Iterator[Log]:
    """Yields log(metrics, step), which sends the values to this configuration's MLflow run.

    Metric names get the stage in front (`fine_tune.train_loss`). Does nothing where
    `track.live` is false. When the stage fails the run is marked as failed.
    """
    params = yaml.safe_load(Path("params.yaml").read_text())
    if not params["track"]["live"]:
        yield lambda metrics, step: None
        return
    client, experiment = open_client(params["track"])
    run_id = _run_for(client, experiment, config_hash(params))
    prefix = stage.replace("-", "_")
    try:
        yield lambda metrics, step: _log(client, run_id, prefix, metrics, step)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        NOTE.unlink(missing_ok=True)
        raise
    note = json.loads(NOTE.read_text())
    NOTE.write_text(json.dumps({**note, "stages": [*note["stages"], prefix]}) + "\n")


def take_live_run(client: MlflowClient, root: Path, config: str) -> tuple[str, list[str]] | None:
    """(run id, stages whose curves it has) of the live run of the configuration in `root`, if
    there is one. The note is removed: the run is the caller's now."""
    note = _read_note(client, root / NOTE, config)
    (root / NOTE).unlink(missing_ok=True)
    return (note["run_id"], note["stages"]) if note else None


def end_live_run(root: Path, track: Mapping[str, Any]) -> None:
    """Marks as failed the live run that the failed job in `root` left behind, if any."""
    note = root / NOTE
    if note.is_file():
        client, _ = open_client(track)
        client.set_terminated(json.loads(note.read_text())["run_id"], "FAILED")
        note.unlink()


def _run_for(client: MlflowClient, experiment: str, config: str) -> str:
    note = _read_note(client, NOTE, config)
    if note is None:
        run = client.create_run(experiment, tags={TAG_CONFIG: config, **parent_tags()})
        note = {"run_id": run.info.run_id, "stages": []}
        NOTE.write_text(json.dumps(note) + "\n")
    return str(note["run_id"])


def _read_note(client: MlflowClient, path: Path, config: str) -> Mapping[str, Any] | None:
    """The note, if its run still runs and is of this configuration."""
    from mlflow.exceptions import MlflowException

    if not path.is_file():
        return None
    note: dict[str, Any] = json.loads(path.read_text())
    try:
        run = client.get_run(note["run_id"])
    except MlflowException:  # the store was deleted or changed meanwhile
        return None
    if run.info.status == "RUNNING" and run.data.tags.get(TAG_CONFIG) == config:
        return note
    return None


def _log(
    client: MlflowClient, run_id: str, prefix: str, metrics: Mapping[str, float], step: int
) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    batch = [Metric(f"{prefix}.{name}", value, now, step) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=batch)
