"""Running the real chain in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.reporting.chain import STAGES as STAGES
from tests.imports import ROOT

_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "out", "reports", "outputs", "multirun", ".scratch", "mlartifacts",
    "mlflow.db*", "params.yaml", "cache", "tmp", "config.local", "__pycache__", ".*_cache",
    ".live_run.json",
    "*.egg-info",
)  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """A copy of the working tree, in Git or not, with nothing computed yet."""

    path: Path

    def run(self, *command: str, ok: bool = True) -> str:
        """Output (stdout and stderr) of a command in the tree; its exit status is asserted."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
        }
        for name in ("LOWRANK_ROOT", "LOWRANK_SCRATCH", "PYTHONPATH", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        done = subprocess.run(
            command,
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def repro(self) -> list[str]:
        """Runs dvc repro; returns the stages whose commands ran."""
        return ran(self.run("dvc", "repro"))

    def pipeline(self, *overrides: str, ok: bool = True) -> str:
        return self.run(sys.executable, "-m", "pipeline", *overrides, ok=ok)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is not exactly once in {file}"
        path.write_text(text.replace(old, new))


def ran(output: str) -> list[str]:
    """Stages that were run (not restored from the run-cache): each says so at its beginning."""
    return re.findall(r"^stage \d of 9: ([\w-]+)$", output, flags=re.MULTILINE)


def restored(output: str) -> list[str]:
    """Stages of a job of python -m pipeline that came from the run-cache."""
    return re.findall(r"^stage \d of 9: ([\w-]+), from the cache$", output, flags=re.MULTILINE)


def make_tree(path: Path, *, git: bool = True, quick: bool = True) -> Tree:
    """Copies the tree; `quick` cuts training to a few epochs where quality is not the point, logs
    no models (4 s each of importing torch.export), and cuts to one thread: two processes of two
    threads on two cores take 8 times as long as one alone."""
    shutil.copytree(ROOT, path, ignore=_NOT_COPIED)
    tree = Tree(path)
    (path / "dvc.lock").unlink(missing_ok=True)
    if quick:
        for file in ("conf/baseline/train.yaml", "conf/fine_tune/_base.yaml"):
            text = (path / file).read_text()
            (path / file).write_text(re.sub(r"^epochs: \d+", "epochs: 2", text, flags=re.MULTILINE))
        tree.edit("conf/fabric/_base.yaml", "threads: 2", "threads: 1")
        tree.edit("conf/track/_base.yaml", "log_model: true #", "log_model: false #")
    if git:
        tree.run("git", "init", "--quiet")
        tree.run("git", "add", "--all")
        tree.run(
            "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "tree"
        )  # fmt: skip
    else:
        (path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    return tree


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Until the condition holds; no longer than the seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.1)
