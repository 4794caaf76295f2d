"""Errors of an MLflow store that does not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.lowrank.errors import LowRankError
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import open_client, tracking_uri


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "Max retries exceeded"),
        ("sqlite:////dev/null/mlflow.db", "File exists"),
    ],
)
def test_a_store_that_does_not_open_is_one_readable_error(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LowRankError, match=reason) as caught:
        open_client(TrackOptions(tracking_uri=uri))
    message = str(caught.value)
    assert message.startswith(f"track.tracking_uri={uri}: the store does not open")
    assert message.endswith("start the server, or mend the address")


def test_a_kind_of_store_that_mlflow_does_not_have_is_known_before_any_opens() -> None:
    with pytest.raises(
        LowRankError, match="nonsense://x: MLflow has no store of this kind; choose"
    ):
        TrackOptions(tracking_uri="nonsense://x")


def test_a_password_is_refused_in_the_configuration_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://nobody:secret@127.0.0.1:9"
    with pytest.raises(LowRankError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        TrackOptions(tracking_uri=uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(LowRankError, match=r"http://nobody:…@127\.0\.0\.1:9") as caught:
        open_client(TrackOptions())
    assert "secret" not in f"{refused.value}{caught.value}"


def test_the_store_is_the_configured_one_then_the_environments_then_the_repositorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWRANK_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackOptions()) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(TrackOptions()) == "http://127.0.0.1:5000"
    given = {
        "https://mlflow.example.org/sub": "https://mlflow.example.org/sub",
        "sqlite:///my.db": f"sqlite:///{tmp_path}/my.db",
        "sqlite:////tmp/my.db": "sqlite:////tmp/my.db",
        "mlruns": (tmp_path / "mlruns").as_uri(),
        "postgresql+psycopg2://mlflow@/runs?host=/tmp": "postgresql+psycopg2://mlflow@/runs?host=/tmp",
        "databricks://profile": "databricks://profile",
    }
    for uri, expected in given.items():
        assert tracking_uri(TrackOptions(tracking_uri=uri)) == expected
