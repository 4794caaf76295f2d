"""Jobs and stages as forks of a process that has its libraries imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.sweeps.warm import parent_ended, start_warm, warm_stages
from tests.chain import wait_for
from tests.imports import ROOT

PROBE = """
import json, os, sys, torch
import pipeline.lowrank
print("said", flush=True)
found = {"argv": sys.argv, "name": __name__, "file": pipeline.lowrank.__file__,
         "environment": dict(os.environ), "group": os.getpgrp(), "cwd": os.getcwd()}
open("found.json", "w").write(json.dumps(found))
sys.exit(int(os.environ["STATUS"]))
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for package in ("pipeline", "pipeline/lowrank", "stages"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "stages/probe.py").write_text(PROBE)
    (tmp_path / "stages/raising.py").write_text("raise KeyError('lost')")
    (tmp_path / "stages/waiting.py").write_text(
        "import time; open('waits', 'w').close(); time.sleep(600)"
    )
    return tmp_path


def run_stages() -> None:
    """The statuses of a few commands, in statuses.json."""
    import pipeline.lowrank  # the repository's, as a job's own process has it

    with warm_stages() as run:
        statuses = {
            "fine": run("python -m stages.probe", {"STATUS": "0", "HOME": "/h"}),
            "failed": run("python -m stages.probe", {"STATUS": "3"}),
            "raised": run("python -m stages.raising", {}),
            "other": run("python -m pipeline", {}),
            "shell": run("python -m stages.probe && true", {}),
        }
    statuses["repository"] = pipeline.lowrank.__file__
    Path("statuses.json").write_text(json.dumps(statuses))


def test_a_stage_runs_the_code_and_environment_of_its_workspace(workspace: Path) -> None:
    process = start_warm(run_stages, workspace, {"ONLY": "this"}, workspace / "log")
    process.join(120)
    assert process.exitcode == 0, (workspace / "log").read_text()
    statuses = json.loads((workspace / "statuses.json").read_text())
    assert statuses.pop("repository") == str(ROOT / "pipeline/lowrank/__init__.py")
    assert statuses == {"fine": 0, "failed": 3, "raised": 1, "other": None, "shell": None}
    found = json.loads((workspace / "found.json").read_text())
    assert found["file"] == str(workspace / "pipeline/lowrank/__init__.py")
    assert found["name"] == "__main__"
    assert found["environment"] == {"STATUS": "3"}
    assert found["cwd"] == str(workspace)
    assert found["group"] == process.pid
    log = (workspace / "log").read_text()
    assert log.count("said") == 2
    assert "KeyError: 'lost'" in log


def run_the_waiting_stage() -> None:
    with warm_stages() as run:
        Path("status").write_text(str(run("python -m stages.waiting", {})))


def members(group: int) -> set[int]:
    """The processes of a group that still run."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    fields = [line.split() for line in listed]
    return {int(pid) for pid, found, state in fields if int(found) == group and state[0] != "Z"}


@pytest.mark.parametrize("victim", ["stage", "between"])
def test_a_killed_process_is_a_failed_stage(workspace: Path, victim: str) -> None:
    process = start_warm(run_the_waiting_stage, workspace, {}, workspace / "log")
    assert process.pid is not None
    wait_for("the stage", (workspace / "waits").exists, 60)
    forker, stage = sorted(members(process.pid) - {process.pid})
    os.kill(stage if victim == "stage" else forker, signal.SIGKILL)
    process.join(60)
    left = members(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert (workspace / "status").read_text() == str(-signal.SIGKILL)
    # What is left is for whoever started the job to end.
    assert left == ({stage} if victim == "between" else set())


def end_with_parent() -> None:
    from pipeline.sweeps import runner

    with warm_stages() as run:
        runner.end_with_parent(parent_ended)
        run("python -m stages.waiting", {})


def test_a_job_and_its_stage_end_with_a_worker_that_is_killed(workspace: Path) -> None:
    worker = (
        "import sys, time; from pathlib import Path;"
        "from pipeline.sweeps.warm import start_warm;"
        "from tests.sweeps.test_warm import end_with_parent;"
        "here = Path(sys.argv[1]);"
        "print(start_warm(end_with_parent, here, {}, here / 'log').pid, flush=True);"
        "time.sleep(600)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", worker, str(workspace)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert started.stdout is not None
    group = int(started.stdout.readline())
    wait_for("the stage", (workspace / "waits").exists, 60)
    assert len(members(group)) == 3
    started.kill()
    started.wait()
    wait_for("the end", lambda: not members(group), 60)


def test_a_matplotlibrc_of_the_user_stops_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: no such font\n")
    subprocess.run(
        [sys.executable, "-c", "import pipeline.sweeps.preload"],
        env={**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PATH": ""},
        check=True,
    )
