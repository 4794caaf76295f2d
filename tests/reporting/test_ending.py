"""The last words of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.exporting import _override
from pipeline.reporting.run.ending import export_command, print_ending


def ending(root: Path) -> list[str]:
    out = io.StringIO()
    print_ending(root, "5d0c (lowrank)", Console(file=out, width=40, highlight=False))
    return out.getvalue().splitlines()


def test_what_is_there_is_named_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs/my run"
    assert ending(run) == [
        "network    outputs/my run/out/fine_tuned",
        "MLflow run 5d0c (lowrank)",
        "next       python -m pipeline export 'outputs/my run' to=torch out=exported",
    ]
    (run / "reports").mkdir(parents=True)
    (run / "reports/report.html").touch()
    assert "page       outputs/my run/reports/report.html" in ending(run)
    monkeypatch.chdir(run)
    assert ending(run)[0] == "network    out/fine_tuned"
    assert ending(tmp_path)[0] == f"network    {tmp_path}/out/fine_tuned"


def test_a_workspace_of_any_name_reaches_the_export() -> None:
    assert export_command(Path()) == "python -m pipeline export . to=torch out=exported"
    assert _override("it's") == "workspace='it\\'s'"
