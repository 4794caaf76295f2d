"""The last words of a run: what it found, where it is, and what may be done with it."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from pipeline.data.files import load_facts
from pipeline.reporting.run.fitting import plain_texts
from pipeline.reporting.run.metrics import FILE as METRICS
from pipeline.reporting.run.metrics import read_metrics
from pipeline.reporting.run.timings import find_timings
from pipeline.reporting.run.verdict import verdict


def print_ending(root: Path, run: str, console: Console | None = None) -> None:
    """Prints the verdict on the run in `root`, where its network, its page and its MLflow run are,
    and the next command; paths from the current directory where they lie in it.

    run: the id of the MLflow run, and its experiment. Raises LowRankError without reports.
    """
    console = console or Console(highlight=False)
    root = from_here(root)
    metrics, data = read_metrics(root / "reports" / METRICS), load_facts(root / "out/data")
    found = verdict(metrics, find_timings(root), data)
    console.print(*plain_texts(console, found))
    console.print()
    lines = [("network", str(root / "out/fine_tuned"))]
    if (root / "reports/report.html").is_file():
        lines.append(("page", str(root / "reports/report.html")))
    lines += [("MLflow run", run), ("next", export_command(root))]
    for label, text in lines:
        console.print(*plain_texts(console, f"{label:<10} {text}"), soft_wrap=True)


def export_command(workspace: Path) -> str:
    """The command that writes the network of a run as files that load without this project."""
    return f"python -m pipeline export {shlex.quote(str(workspace))} to=torch out=exported"


def from_here(path: Path) -> Path:
    """The path from the current directory, where it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
