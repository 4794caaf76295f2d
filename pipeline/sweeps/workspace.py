"""Every job is a DVC run: a workspace of its own on the shared cache and run-cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

import yaml
from configobj import ConfigObj

from pipeline.config.compose import write_params
from pipeline.lowrank.errors import LowRankError
from pipeline.sweeps.warm import start_warm

# Stages that a job does without: its params.yaml is ready made, and the launcher tracks it.
NOT_IN_JOBS = ("configure", "track")
_CODE = ("pipeline", "stages")


def make_workspace(root: Path, workspace: Path, params: Mapping[str, Any]) -> None:
    """Lays out a DVC repository (without Git) in `workspace` that shares the cache of `root`.

    The code is copied: DVC's keys hold paths relative to the repository, and the job is safe
    from edits while it runs. Never hardlinks: two jobs that link one cached file and one that
    writes to it have emptied outputs of others.
    """
    dvc_file = root / "dvc.yaml"
    if not dvc_file.is_file():
        raise LowRankError(f"{dvc_file}: no such file; run python -m pipeline in the repository")
    (workspace / ".dvc").mkdir(parents=True, exist_ok=True)
    # Nothing runs here now. A DVC that was killed may have left half of it, which no other reads.
    (workspace / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
    _write_dvc_config(workspace, root.absolute() / ".dvc" / "cache")
    chain = yaml.safe_load(dvc_file.read_text())
    chain["stages"] = {n: s for n, s in chain["stages"].items() if n not in NOT_IN_JOBS}
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(chain, sort_keys=False))
    for name in (".dvcignore",):
        shutil.copyfile(root / name, workspace / name)
    for name in _CODE:
        # A module that the repository no longer has must not stay in a workspace used again.
        shutil.rmtree(workspace / name, ignore_errors=True)
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(root / name, workspace / name, ignore=ignore)
    write_params(workspace / "params.yaml", dict(params))


def _write_dvc_config(workspace: Path, cache: Path) -> None:
    """Written by the library that DVC reads it with: a path may hold "#", commas and quotes."""
    config = ConfigObj(encoding="utf-8")
    config["core"] = {"no_scm": True, "analytics": False, "check_update": False}
    config["cache"] = {"dir": str(cache), "type": "reflink,symlink,copy"}
    with (workspace / ".dvc" / "config").open("wb") as file:
        config.write(file)


class StoppedError(LowRankError):
    """The sweep was asked to end."""


def reproduce(
    root: Path,
    workspace: Path,
    *,
    until: str | None = None,
    log: Path | None = None,
    stop: Path | None = None,
) -> None:
    """Runs the workspace's chain in a process group of its own, its output on our terminal, or,
    as a job of a sweep, in the file `log`. `until`: the last stage that is run.

    Raises LowRankError when a stage fails, StoppedError when the file `stop` appears. However this
    ends, on Ctrl-C too, the whole group is gone: a stage whose DVC is gone would live on as an
    orphan.
    """
    environment = os.environ | {
        "LOWRANK_ROOT": str(root.absolute()),
        "LOWRANK_SCRATCH": str(root.absolute() / ".scratch"),
        "PYTHONPATH": os.pathsep.join(
            p for p in (str(workspace), str(root.absolute()), os.environ.get("PYTHONPATH")) if p
        ),
        # `python` in dvc.yaml is the interpreter that runs this.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    process: _Process
    if log is None:
        process = _Cold(workspace, environment, [until] if until else [])
    else:
        process = _Warm(workspace, environment, log)
    try:
        while (status := process.wait(0.5)) is None:
            if stop is not None and stop.exists():
                raise StoppedError("stopped with its sweep")
    except BaseException:
        _end(process)
        raise
    if status != 0:
        _end(process)  # what a killed process left behind
        raise LowRankError(_why(log, status, workspace))


class _Process(Protocol):
    """A process that leads a group of its own; `wait` gives its exit status once there is one."""

    pid: int

    def wait(self, seconds: float | None) -> int | None: ...


class _Cold:
    """The runner as a process of its own, as `dvc repro` is."""

    def __init__(
        self, workspace: Path, environment: Mapping[str, str], targets: Sequence[str]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.sweeps.runner", *targets],
            cwd=workspace,
            env=environment,
            stdin=subprocess.PIPE,  # never written: that it closes tells the job that we are gone
            start_new_session=True,
        )
        self.pid = self._process.pid

    def wait(self, seconds: float | None) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


class _Warm:
    """The runner in a warm process: a sweep's jobs start by the dozen."""

    def __init__(self, workspace: Path, environment: Mapping[str, str], log: Path) -> None:
        from pipeline.sweeps.runner import run_warm

        self._process = start_warm(run_warm, workspace, environment, log)
        self.pid = cast(int, self._process.pid)

    def wait(self, seconds: float | None) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode


def _why(log: Path | None, status: int, workspace: Path) -> str:
    if log is None:
        return (
            f"the run failed (see above); its workspace is {workspace}; run the same command again "
            "when it is mended: what was computed is not computed again"
        )
    if status < 0:
        return f"the job's process was ended by signal {-status} ({signal.strsignal(-status)})"
    told = [line for line in log.read_text(errors="replace").splitlines() if "error: " in line]
    return told[0].partition("error: ")[2] if told else f"the run failed; see {log}"


def _end(process: _Process) -> None:
    """Ends a process group: asks first, kills after five seconds."""
    for what, patience in ((signal.SIGINT, 5.0), (signal.SIGKILL, None)):
        if process.wait(0) is None:
            _signal(process.pid, what)
            process.wait(patience)
    with suppress(ProcessLookupError):  # stages whose parent went first
        os.killpg(process.pid, signal.SIGKILL)


def _signal(pid: int, what: signal.Signals) -> None:
    """Sends a signal to the group, or to its leader alone where the group does not exist yet."""
    try:
        os.killpg(pid, what)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, what)
