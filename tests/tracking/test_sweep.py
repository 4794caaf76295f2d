"""The run of a sweep in MLflow, and a store that moves with its repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.reporting.sweep.record import JobRecord, SweepRecord
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import open_client
from pipeline.tracking.sweep import begin_sweep_run, end_sweep_run, log_to_sweep

TRACK = TrackOptions()


def job(number: int, state: str, **more: object) -> JobRecord:
    return JobRecord(
        job=number,
        overrides=(f"seed={number}",),
        state=state,
        started=0.0,
        host="here",
        pid=1,
        folder=str(number),
        **more,  # type: ignore[arg-type]
    )


def test_a_failed_sweep_is_failed_and_names_its_best_job(
    client: MlflowClient, tmp_path: Path
) -> None:
    begun = begin_sweep_run(TRACK, tmp_path / "12-00", ("methods=svd,cp", "hydra.x=1"), None)
    run = client.get_run(begun.parent_run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "sweep methods=svd,cp 12-00")
    jobs = (
        job(0, "done", objectives={"accuracy": 0.5, "params": 30.0}),
        job(1, "done", objectives={"accuracy": 0.9, "params": 40.0}),
        job(2, "failed", error="no budget"),
    )
    record = SweepRecord(
        state="failed",
        overrides=(),
        objectives=("accuracy", "params"),
        total=3,
        started=0.0,
        parent_run_id=begun.parent_run_id,
        experiment="lowrank",
        tracking_uri=begun.tracking_uri,
        jobs=jobs,
    )
    end_sweep_run(TRACK, record, ("maximize", "minimize"))
    run = client.get_run(begun.parent_run_id)
    assert run.info.status == "FAILED"
    assert run.data.metrics == {
        "jobs/done": 2, "jobs/failed": 1, "jobs/stopped": 0,
        "best/accuracy": 0.9, "best/accuracy.job": 1, "best/params": 30.0, "best/params.job": 0,
    }  # fmt: skip
    assert "Job 2 failed: no budget" in run.data.tags["mlflow.note.content"]


def test_artifacts_move_with_their_repository(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "here"
    root.mkdir()
    shutil.move(tmp_path / "mlflow.db", root / "mlflow.db")
    monkeypatch.setenv("LOWRANK_ROOT", str(root))
    run = begin_sweep_run(TRACK, tmp_path / "sweep", (), None).parent_run_id
    (tmp_path / "word").write_text("kept")
    log_to_sweep(TRACK, run, [tmp_path / "word"])
    elsewhere = open_client(TRACK)[0].create_experiment("mine", (tmp_path / "my_files").as_uri())

    moved = tmp_path / "a folder, elsewhere"
    root.rename(moved)
    monkeypatch.setenv("LOWRANK_ROOT", str(moved))
    there, _ = open_client(TRACK)
    assert Path(there.download_artifacts(run, "word", str(tmp_path))).read_text() == "kept"
    new = begin_sweep_run(TRACK, tmp_path / "sweep", (), None).parent_run_id
    log_to_sweep(TRACK, new, [tmp_path / "word"])
    assert not root.exists(), "nothing goes to the old place"
    assert there.get_experiment(elsewhere).artifact_location == (tmp_path / "my_files").as_uri()
