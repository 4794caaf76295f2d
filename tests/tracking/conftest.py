"""A repository with a store of MLflow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database, whose making takes as long as the tests of one file."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """The client of the store in a repository that is the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_ROOT", str(tmp_path))
    store = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, store)
    return MlflowClient(f"sqlite:///{store}")
