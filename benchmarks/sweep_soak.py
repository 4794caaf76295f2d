"""Soak: small parallel sweeps while their jobs are killed, against the same sweep in series.

python -m benchmarks.sweep_soak [SWEEPS [MINUTES [FIRST]]]

A job's process group, its DVC process alone, one of its stages alone, or the process that jobs
are forked from gets SIGKILL at a random time; then the sweep is resumed until it is done. At the
end every result must be that of the serial sweep on the same seed, byte for byte, every lock
free and no process left. Each sweep starts cold, in a tree of its own; a few seeds take turns,
so that the serial ones are run once. What is killed when depends on a sweep's number alone, so
that a soak can be run in parts: the second from number FIRST on.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from tests.chain import Tree
from tests.sweeps.small_tree import make_small_tree

JOBS = ("rank_select=energy,error", "methods=svd,tucker2")
PARALLEL = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
RESULTS = ("out/plan.json", "reports/metrics.json", "reports/layers.csv", "dvc.lock")
_MOST_RESUMES = 10
_SEEDS = 5
_PATIENCE = 10.0  # seconds: processes that wait for others' ends see them a little later
_NAME = "sweep"


def groups(folder: Path) -> dict[int, list[int]]:
    """The processes that work below `folder`, by process group."""
    found: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                pid = int(process.name)
                found.setdefault(os.getpgid(pid), []).append(pid)
    return found


def server_of(pid: int, tree: Path) -> int | None:
    """The process that this one is a fork of; None where that is gone (and init took its place)."""
    with suppress(OSError):
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(os.readlink(f"/proc/{parent}/cwd")) == tree:
            return parent
    return None


def strike(sweep: Path, chance: random.Random) -> str | None:
    """Kills something of a running job: the whole group, its leader (DVC), one stage (or the
    process that it is a fork of), or what the leader is a fork of."""
    running = groups(sweep)
    if not running:
        return None
    group = chance.choice(sorted(running))
    what = chance.choice(("group", "dvc", "stage", "server"))
    others = [pid for pid in running[group] if pid != group]
    with suppress(ProcessLookupError):
        if what == "group":
            os.killpg(group, signal.SIGKILL)
        elif what == "server":
            server = server_of(group, sweep.parent)
            if server is None:
                return None
            os.kill(server, signal.SIGKILL)
        elif what == "dvc" or not others:
            os.kill(group, signal.SIGKILL)
        else:
            os.kill(chance.choice(others), signal.SIGKILL)
    return what


def run_struck(tree: Tree, seed: int, chance: random.Random) -> list[str]:
    """Runs a cold parallel sweep on `seed`, striking it until it ends; returns what was killed."""
    struck: list[str] = []
    first = [*PARALLEL, *JOBS, f"seed={seed}", f"hydra.sweep.dir={_NAME}"]
    command = [sys.executable, "-m", "pipeline", "-m", *first]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for attempt in range(_MOST_RESUMES):
        process = subprocess.Popen(
            command, cwd=tree.path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while attempt < 3 and process.poll() is None:
            time.sleep(chance.uniform(1, 7))
            what = strike(tree.path / _NAME, chance)
            if what:
                struck.append(what)
        output, _ = process.communicate()
        assert "Traceback" not in output, output
        if process.returncode == 0:
            return struck
        command = [sys.executable, "-m", "pipeline", "--resume", _NAME]
    raise AssertionError(f"not done after {_MOST_RESUMES} attempts:\n{output}")


def run_serial(tree: Tree, seed: int) -> None:
    tree.pipeline("-m", *JOBS, f"seed={seed}", f"hydra.sweep.dir={_NAME}")


def compare(tree: Tree, serial: Tree) -> None:
    """Every result of every job against that of the serial sweep."""
    jobs = json.loads((tree.path / _NAME / "sweep.json").read_text())["jobs"]
    assert [job["state"] for job in jobs] == ["done"] * 4
    for job in jobs:
        for file in RESULTS:
            mine, other = (t.path / _NAME / job["folder"] / file for t in (tree, serial))
            assert mine.read_bytes() == other.read_bytes(), f"{mine} differs"


def soak(folder: Path, number: int, serial: dict[int, Tree], chance: random.Random) -> list[str]:
    """Runs, strikes, checks and clears away one sweep; returns what was killed."""
    seed = number % _SEEDS
    if seed not in serial:
        serial[seed] = make_small_tree(folder / f"serial{seed}")
        run_serial(serial[seed], seed)
    tree = make_small_tree(folder / f"struck{number}")
    struck = run_struck(tree, seed, chance)
    deadline = time.monotonic() + _PATIENCE
    while left := groups(tree.path):
        assert time.monotonic() < deadline, f"processes left: {left}"
        time.sleep(0.1)
    for lock in (tree.path / ".scratch/locks").glob("*.lock"):
        with FileLock(lock, timeout=0):
            pass
    compare(tree, serial[seed])
    shutil.rmtree(tree.path)
    return struck


def main() -> None:
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    ends = time.monotonic() + 60 * minutes
    serial: dict[int, Tree] = {}
    with tempfile.TemporaryDirectory() as folder:
        done, killed = 0, 0
        while done < sweeps and time.monotonic() < ends:
            number = first + done
            struck = soak(Path(folder), number, serial, random.Random(number))
            done, killed = done + 1, killed + len(struck)
            print(f"sweep {number}: killed {struck}; equal to the serial one", flush=True)
        print(f"{done} sweeps, {killed} kills: all equal, no lock held, no process left")


if __name__ == "__main__":
    main()
