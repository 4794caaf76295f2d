"""Errors of an MLflow store that does not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.lowrank.errors import LowRankError
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import open_client


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "Max retries exceeded"),
        ("http://nobody:secret@127.0.0.1:9", "Max retries exceeded"),
        ("sqlite:////dev/null/mlflow.db", "File exists"),
        ("nonsense://x", "unsupported URI"),
    ],
)
def test_a_store_that_does_not_open_is_one_readable_error(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LowRankError, match=reason) as caught:
        open_client(TrackOptions(tracking_uri=uri))
    shown = uri.replace("secret", "…")
    message = str(caught.value)
    assert message.startswith(f"track.tracking_uri={shown}: the store does not open")
    assert message.endswith("start the server, or mend the address")
    assert "secret" not in message
