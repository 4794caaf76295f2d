"""Curves in MLflow while a network trains.

A live run is a convenience beside the outputs, not one of them: it is noted in
./.live_run.json, resumed and completed by track, and logged anew from the files where a stage
came from the cache. Points are sent together, a few seconds' worth at a time: a training that
is over before never needs MLflow (seconds of import, milliseconds a step). A thread of its own
sends them: the training waits neither for MLflow's import nor for its answers. A store that stops
answering is told once and left alone: the training goes on, and track logs its curve from the
files.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.lowrank.typed import load_record, save_record
from pipeline.machine.durations import durations
from pipeline.tracking.naming import run_name
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import (
    TAG_CONFIG,
    close_failed,
    config_hash,
    log_params,
    log_points,
    open_client,
    parent_tags,
    track_options,
    without_password,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

Log = Callable[[dict[str, float], int], None]
Point = tuple[str, float, int, int]  # name, value, time in milliseconds, step

NOTE = Path(".live_run.json")
_REMEDY = "delete this file"
# What the training waits for at most, once: MLflow by itself tries for eight minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
PERIOD = 5.0  # seconds from one sending to the next, and from the beginning to the first


@dataclass(frozen=True)
class LiveRun:
    """An MLflow run that is not complete yet, and the stages whose curves it has."""

    run_id: str
    stages: tuple[str, ...] = ()


@contextmanager
def curve_logger(stage: str) -> Iterator[Log]:
    """Yields log(metrics, step), which sends the values to this configuration's MLflow run
    within PERIOD, or never where the training is over before.

    Metric names get the stage in front (`fine_tune/train_loss`). Does nothing where
    `track.live` is false. When the stage fails the run is closed as failed, with the error.
    """
    params = yaml.safe_load(Path("params.yaml").read_text())
    if not track_options(params).live:
        yield lambda metrics, step: None
        return
    with ThreadPoolExecutor(max_workers=1) as sender:
        curve = _LiveCurve(params, stage.replace("-", "_"), sender)
        try:
            yield curve.log
        except BaseException as error:
            with suppress(Exception):  # a store that is gone: what the training failed of is told
                curve.fail(f"{stage}: {error or type(error).__name__}")
            raise
        curve.finish()


class _LiveCurve:
    """The points of one training that are still to be sent, and the run that they go to."""

    def __init__(self, params: Mapping[str, Any], prefix: str, sender: Executor) -> None:
        self._params, self._prefix, self._sender = params, prefix, sender
        earlier = durations(Path(), before=prefix.replace("_", "-")).values()
        self._begun = time.time() - sum(earlier)
        self._sending: Future[None] | None = None
        self._points: list[Point] = []
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._sent = time.monotonic()
        self._lost = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._lost:
            return
        now = int(time.time() * 1000)
        self._points += [(f"{self._prefix}/{k}", v, now, step) for k, v in metrics.items()]
        if time.monotonic() - self._sent >= PERIOD and not self._is_sending:
            self._sending = self._sender.submit(self._offer, self._taken())

    @property
    def _is_sending(self) -> bool:
        return self._sending is not None and not self._sending.done()

    def _taken(self) -> list[Point]:
        """What is to be sent; by the thread that logs, which alone changes the list."""
        points, self._points = self._points, []
        self._sent = time.monotonic()
        return points

    def _settle(self) -> None:
        if self._sending is not None:
            self._sending.result()

    def finish(self) -> None:
        self._settle()
        if self._client is None or self._lost:
            return
        self._offer(self._taken())
        if self._lost:  # the stage is not noted: track logs all of its curve
            return
        live = load_record(NOTE, LiveRun, _REMEDY)
        save_record(NOTE, replace(live, stages=(*live.stages, self._prefix)))
        with suppress(Exception):  # the curve is there; this says only that no training runs
            self._client.update_run(self._run_id, status="SCHEDULED")

    def fail(self, error: str) -> None:
        self._settle()
        if not self._lost:
            close_failed(self._send(self._taken()), self._run_id, error)
            NOTE.unlink(missing_ok=True)

    def _offer(self, points: list[Point]) -> None:
        """Sends them; a store that does not take them is told once, and asked no more."""
        try:
            self._send(points)
        except Exception as error:  # whatever a server or a database gives
            self._lost = True
            reason = without_password(" ".join(str(error).split()))[:200]
            print(
                f"warning: MLflow does not answer ({reason}); the training goes on, and its curve "
                "is logged at the end",
                file=sys.stderr,
            )

    def _send(self, points: list[Point]) -> MlflowClient:
        if self._client is None:
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
            self._client, experiment = open_client(track_options(self._params))
            self._run_id = _run_for(self._client, experiment, self._params, self._begun)
        log_points(self._client, self._run_id, points)
        return self._client


def take_live_run(client: MlflowClient, root: Path, config: str) -> LiveRun | None:
    """The live run of the configuration in `root`, if there is one. The note is removed: the run
    is the caller's now."""
    live = _noted_run(client, root / NOTE, config)
    (root / NOTE).unlink(missing_ok=True)
    return live


def end_live_run(root: Path, track: TrackOptions, error: str) -> None:
    """Closes as failed, with the error, the live run that the failed job in `root` left behind, if
    any."""
    note = root / NOTE
    if note.is_file():
        client, _ = open_client(track)
        close_failed(client, load_record(note, LiveRun, _REMEDY).run_id, error)
        note.unlink()


def _run_for(client: MlflowClient, experiment: str, params: Mapping[str, Any], begun: float) -> str:
    """The live run of the configuration: the noted one, else a new one with its name and its
    parameters, which began at `begun` (seconds since 1970)."""
    config = config_hash(params)
    live = _noted_run(client, NOTE, config)
    if live is None:
        tags = {TAG_CONFIG: config, **parent_tags()}
        run = client.create_run(experiment, int(1000 * begun), tags, run_name(params))
        live = LiveRun(run.info.run_id)
        save_record(NOTE, live)
        log_params(client, live.run_id, params)
    return live.run_id


def _noted_run(client: MlflowClient, path: Path, config: str) -> LiveRun | None:
    """The run in the note, if it still runs and is of this configuration; one of another is
    closed."""
    from mlflow.exceptions import MlflowException

    if not path.is_file():
        return None
    live = load_record(path, LiveRun, _REMEDY)
    try:
        run = client.get_run(live.run_id)
    except MlflowException:  # the store was deleted or changed meanwhile
        return None
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return None
    if run.data.tags.get(TAG_CONFIG) == config:
        client.update_run(live.run_id, status="RUNNING")
        return live
    # Its process was killed, and nobody will go on with it: another configuration runs here now.
    close_failed(client, live.run_id, "its process was killed")
    return None
