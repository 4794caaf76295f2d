"""Curves that reach MLflow while a network trains, or after it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.lowrank.typed import load_record
from pipeline.tracking import live
from pipeline.tracking.live import NOTE, LiveRun, curve_logger, take_live_run
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import config_hash, open_client
from tests.chain import wait_for

PARAMS: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "digits"},
    "rank_select": {"policy": "budget"},
    "refit": {"share": 0.0, "steps": 0},
    "fine_tune": {"parameters": "all", "objective": "labels"},
    "track": {"tracking_uri": None, "experiment": "lowrank", "live": True},
}


@pytest.fixture(autouse=True)
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS))


def first_run(client: MlflowClient) -> Run:
    """The one run of the store, when the curve's beginning has reached it."""

    def found() -> list[Run]:
        experiments = client.search_experiments(filter_string="name = 'lowrank'")
        return [
            run
            for experiment in experiments
            for run in client.search_runs(
                [experiment.experiment_id], "attributes.status = 'RUNNING'"
            )
            if run.data.metrics
        ]

    wait_for("the beginning of the curve", lambda: bool(found()), 60)
    (run,) = found()
    return run


def test_the_training_does_not_wait_for_mlflow(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose import, and the making of whose store, take longer than many steps."""
    ready = threading.Event()

    def slowly(track: TrackOptions) -> tuple[MlflowClient, str]:
        assert ready.wait(60)
        return open_client(track)

    monkeypatch.setattr(live, "open_client", slowly)
    monkeypatch.setattr(live, "PERIOD", 0.0)
    with curve_logger("baseline") as log:
        for step in range(1, 100):
            log({"train_loss": 1 / step}, step)
        ready.set()
    run_id = load_record(NOTE, LiveRun, "").run_id
    history = client.get_metric_history(run_id, "baseline/train_loss")
    assert [point.step for point in history] == list(range(1, 100))


def test_a_short_training_leaves_its_curve_to_track(client: MlflowClient) -> None:
    with curve_logger("fine-tune") as log:
        log({"train_loss": 1.0}, 1)
    assert not NOTE.exists()
    assert client.search_experiments(filter_string="name = 'lowrank'") == []


def test_a_long_one_is_seen_while_it_trains(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD", 0.0)
    with curve_logger("baseline") as log:
        log({"train_loss": 1.0, "learning_rate": 0.1}, 1)
        run = first_run(client)
        assert run.data.metrics == {"baseline/train_loss": 1.0, "baseline/learning_rate": 0.1}
        monkeypatch.setattr(live, "PERIOD", 3600.0)
        log({"train_loss": 0.5}, 2)
        unsent = client.get_metric_history(run.info.run_id, "baseline/train_loss")
        assert [point.step for point in unsent] == [1]
    assert client.get_run(run.info.run_id).info.status == "SCHEDULED", "nothing trains now"
    history = client.get_metric_history(run.info.run_id, "baseline/train_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    # A second stage that is short adds nothing: track knows which curves it still has to log.
    with curve_logger("fine-tune") as log:
        log({"train_loss": 0.4}, 1)
    assert take_live_run(client, Path(), config_hash(PARAMS)) == LiveRun(
        run.info.run_id, ("baseline",)
    )


def test_a_training_that_fails_is_a_failed_run_with_its_curve(client: MlflowClient) -> None:
    logger = curve_logger("baseline")
    logger.__enter__()({"train_loss": 7.0}, 1)
    assert not logger.__exit__(ValueError, ValueError("NaN"), None)
    (experiment,) = client.search_experiments(filter_string="name = 'lowrank'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.info.run_name == "digits budget fine_tune all seed 3"
    assert run.data.metrics == {"baseline/train_loss": 7.0}
    assert run.data.params["fine_tune.parameters"] == "all"
    assert run.data.tags["mlflow.note.content"] == "baseline: NaN"
    assert not NOTE.exists()


def test_a_run_whose_process_was_killed_is_closed_by_the_next_configuration(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD", 0.0)
    logger = curve_logger("baseline")  # kept: a generator that is dropped is closed
    logger.__enter__()({"train_loss": 7.0}, 1)
    first_run(client)
    killed = load_record(NOTE, LiveRun, "").run_id
    assert client.get_run(killed).info.status == "RUNNING"
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"seed": 4}))
    with curve_logger("baseline") as log:
        log({"train_loss": 6.0}, 1)
    assert load_record(NOTE, LiveRun, "").run_id != killed
    run = client.get_run(killed)
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"] == "its process was killed"


def test_a_store_that_is_gone_is_told_once_and_the_training_goes_on(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "PERIOD", 0.0)
    with curve_logger("baseline") as log:
        log({"train_loss": 7.0}, 1)
        first_run(client)
        for file in Path().glob("mlflow.db*"):
            file.write_bytes(b"damaged" * 4096)
        for step in (2, 3):
            log({"train_loss": 7.0 / step}, step)
    told = capsys.readouterr().err
    assert told.count("warning: MLflow does not answer") == 1
    assert "the training goes on" in told
    # track has to log the whole curve: the stage is not among those that the live run has.
    assert load_record(NOTE, LiveRun, "").stages == ()


def test_a_training_that_fails_tells_its_own_error_where_the_store_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = PARAMS["track"] | {"tracking_uri": "http://127.0.0.1:9"}
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"track": away}))
    logger = curve_logger("baseline")
    logger.__enter__()({"train_loss": 7.0}, 1)
    assert not logger.__exit__(ValueError, ValueError("NaN"), None)


def test_the_trainings_own_error_is_told_where_the_store_was_lost_before(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD", 0.0)
    logger = curve_logger("baseline")
    logger.__enter__()({"train_loss": 7.0}, 1)
    first_run(client)
    for file in Path().glob("mlflow.db*"):
        file.write_bytes(b"damaged" * 4096)
    assert not logger.__exit__(ValueError, ValueError("NaN"), None)
