"""The last words of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.exporting import _override
from pipeline.reporting.run.ending import export_command, print_ending
from pipeline.reporting.run.facts import read_facts
from pipeline.reporting.run.metrics import FILE, make_metrics
from pipeline.reporting.run.spectral import spectral_figures
from stages._io import write_json
from tests.reporting.report_case import NETWORKS, SMALL, write_case


def ending(root: Path) -> list[str]:
    """What is printed, less the verdict, which is wrapped."""
    out = io.StringIO()
    print_ending(root, "5d0c (lowrank)", Console(file=out, width=40, highlight=False))
    found, _, rest = out.getvalue().partition("\n\n")
    assert " ".join(found.split()).startswith("4.00× smaller: accuracy 98.00 % ± 1.5, 97.50 %")
    assert max(map(len, found.splitlines())) <= 40
    return rest.splitlines()


def test_what_is_there_is_named_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs/my run"
    write_case(run / "out", SMALL)
    facts = read_facts(run / "out")
    metrics = make_metrics(facts, NETWORKS, spectral_figures(facts))
    write_json(run / "reports" / FILE, metrics.to_json())
    assert ending(run) == [
        "network    outputs/my run/out/fine_tuned",
        "MLflow run 5d0c (lowrank)",
        "next       python -m pipeline export 'outputs/my run' to=torch out=exported",
    ]
    (run / "reports/report.html").touch()
    assert "page       outputs/my run/reports/report.html" in ending(run)
    monkeypatch.chdir(run)
    assert ending(run)[0] == "network    out/fine_tuned"
    (run / "elsewhere").mkdir()
    monkeypatch.chdir(run / "elsewhere")
    assert ending(run)[0] == f"network    {run}/out/fine_tuned"


def test_a_workspace_of_any_name_reaches_the_export() -> None:
    assert export_command(Path()) == "python -m pipeline export . to=torch out=exported"
    assert _override("it's") == "workspace='it\\'s'"
