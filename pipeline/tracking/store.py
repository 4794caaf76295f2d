"""Where runs are tracked: the MLflow client, its default store, and the names of runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import options_from
from pipeline.tracking.moved import follow
from pipeline.tracking.options import TrackOptions

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG_CONFIG, TAG_LOCK = "lowrank.config", "lowrank.lock"
# The key of a tag, to which the id of a sweep's run is added; its value is the job's number.
TAG_SWEEP = "lowrank.sweep."
# The environment variable that holds the id of the sweep's run. (MLflow's own MLFLOW_RUN_ID
# would make all jobs one run.)
PARENT = "LOWRANK_PARENT_RUN"
_SQLITE = "sqlite:///"
_URI = "MLFLOW_TRACKING_URI"
_KEYWORDS = ("databricks", "uc")  # of MLflow: all other words are folders
NOTE = "mlflow.note.content"  # MLflow's tag of a run's description, in Markdown
# MLflow's limits: points and parameters a request, and (8000) characters of a tag.
_POINTS, _BATCH, _MOST = 1000, 100, 7000


def main_root() -> Path:
    """The repository that a job belongs to; for a plain `dvc repro` the current directory."""
    return Path(os.environ.get("LOWRANK_ROOT", ".")).absolute()


def tracking_uri(track: TrackOptions) -> str:
    """The configured URI, else that of MLflow's own environment variable, else the SQLite file in
    the repository. SQLite files and folders lie relative to the repository, wherever a job runs."""
    uri = track.tracking_uri or os.environ.get(_URI) or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{main_root() / uri.removeprefix(_SQLITE)}"
    return uri if ":" in uri or uri in _KEYWORDS else (main_root() / uri).as_uri()


def artifacts_folder() -> Path:
    """Where artifacts of a store in the repository lie."""
    return main_root() / "mlartifacts"


def without_password(uri: str) -> str:
    """Text with … in place of the password of each address in it."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:…@", uri)


def track_options(params: Mapping[str, Any]) -> TrackOptions:
    """The section `track` of a configuration's plain values."""
    return options_from(TrackOptions, params["track"], "track")


def parent_tags() -> dict[str, str]:
    """The tag that puts a new run under the run of its sweep; {} outside of sweeps."""
    parent = os.environ.get(PARENT)
    return {"mlflow.parentRunId": parent} if parent else {}


def open_client(track: TrackOptions) -> tuple[MlflowClient, str]:
    """(client, experiment id). Creates the store and the experiment when they are new.

    The first opening of a database migrates it, which two processes must not do at once.
    Raises LowRankError where the store can't be reached.
    """
    quiet_mlflow()
    import mlflow
    from mlflow import MlflowClient

    uri = tracking_uri(track)
    scratch = main_root() / ".scratch"
    scratch.mkdir(exist_ok=True)
    with FileLock(scratch / "mlflow.lock"), _reached(uri):
        with _environment_kept(_URI):
            mlflow.set_tracking_uri(uri)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(track.experiment)
        # SQLite keeps no files: artifacts go beside it; a server names its own place.
        local = uri.startswith("sqlite:")
        place = artifacts_folder().as_uri() if local else None
        if place is not None and uri.startswith(f"{_SQLITE}{main_root()}/"):
            follow(uri, place)
        if found is not None:
            return client, found.experiment_id
        return client, client.create_experiment(track.experiment, place)


@contextmanager
def _environment_kept(name: str) -> Iterator[None]:
    """A context after which a variable of the environment is as before: MLflow notes there where it
    logs, which would be taken for the user's wish."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def _reached(uri: str) -> Iterator[None]:
    """A context that turns every failure to open a store into one error, which names the store
    without its password."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]  # may name the address again
        message = (
            f"track.tracking_uri={uri}: the store does not open ({reason}); start the server, "
            "or mend the address"
        )
        raise LowRankError(without_password(message)) from error


def log_points(
    client: MlflowClient, run_id: str, points: Sequence[tuple[str, float, int, int]]
) -> None:
    """Logs points of curves, each (metric, value, milliseconds since 1970, step)."""
    from mlflow.entities import Metric

    for start in range(0, len(points), _POINTS):
        batch = [Metric(*point) for point in points[start : start + _POINTS]]
        client.log_batch(run_id, metrics=batch)


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Logs a configuration's plain values, nested ones under names joined by dots. Values that are
    there already stay."""
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in flatten(params)]
    for start in range(0, len(entries), _BATCH):
        client.log_batch(run_id, params=entries[start : start + _BATCH])


def close_failed(client: MlflowClient, run_id: str, error: str) -> None:
    """Ends a run as failed, with the error as its description."""
    client.set_tag(run_id, NOTE, without_password(error)[:_MOST])
    client.set_terminated(run_id, "FAILED")


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} → ("a.b", 1)."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def quiet_mlflow() -> None:
    """Keeps progress chatter and telemetry of MLflow off the user's terminal; not its errors."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def config_hash(params: Mapping[str, Any]) -> str:
    """Names a configuration: hash of all sections but those that change no result."""
    chosen = {key: value for key, value in params.items() if key not in ("executor", "track")}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]
