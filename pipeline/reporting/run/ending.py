"""The last words of a run: where its results are, and what may be done with them."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from pipeline.reporting.run.fitting import plain_texts


def print_ending(root: Path, run: str, console: Console | None = None) -> None:
    """Prints where the network, the page and the MLflow run of the run in `root` are, and the next
    command, paths from the current directory where they lie in it.

    run: the id of the MLflow run, and its experiment.
    """
    console = console or Console(highlight=False)
    root = from_here(root)
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
