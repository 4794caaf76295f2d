"""What a run's page in MLflow says first."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.data.files import load_facts
from pipeline.evaluation.timings import Timings
from pipeline.lowrank.planning.plan import Plan
from pipeline.reporting.run.metrics import FILE, read_metrics
from pipeline.reporting.run.verdict import verdict
from pipeline.reporting.sweep.status import FILE as STATUS
from pipeline.reporting.sweep.status import read_status

_MOST = 7000  # characters: MLflow keeps 8000 of a tag


def description(root: Path, timings: Timings, plan: Plan) -> str:
    """The verdict, how the run is had again, and the plan."""
    metrics, data = read_metrics(root / "reports" / FILE), load_facts(root / "out/data")
    said = verdict(metrics, timings, data)
    again = "dvc repro"
    if (root / STATUS).is_file():  # a job: its command alone
        again = shlex.join(["python", "-m", "pipeline", *read_status(root).overrides])
    found = (
        f"{said}\n\n"
        f"To have it again, at the commit in the tag `mlflow.source.git.commit`:\n\n"
        f"```\n{again}\n```\n\n"
        "`params.yaml` and `dvc.lock` among the artifacts hold the configuration and the checksums "
        "of the data and of all results.\n\n"
        f"```\n{plan}\n```"
    )
    return found if len(found) <= _MOST else f"{found[:_MOST]}\n…\n```\n(all of it: plan.json)"
