"""Sweeps without running one: command lines, records, objectives, what is shown."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from filelock import FileLock
from rich.console import Console

from pipeline.__main__ import BESIDE, named_command
from pipeline.evaluation.timings import Latency
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Custom, get_task
from pipeline.reporting.objectives import (
    DIRECTIONS,
    check_directions,
    chosen_objectives,
    read_objectives,
)
from pipeline.reporting.run.metrics import Network, Size
from pipeline.reporting.sweep.record import count, read_jobs, read_record
from pipeline.reporting.sweep.status import JobStatus, read_status, write_status
from pipeline.sweeps import view as sweep_view
from pipeline.sweeps.command import describe_sweep, hydra_arguments, parse_command
from pipeline.sweeps.record import SweepDescription, opened, stop_jobs
from pipeline.sweeps.runner import own_small_files, stage_key
from pipeline.sweeps.workspace import make_workspace
from pipeline.tracking.options import TrackOptions
from tests.chain import wait_for
from tests.imports import ROOT
from tests.sweeps.sweep_case import make_sweep

CONF = ROOT / "conf"


@pytest.mark.parametrize(
    ("arguments", "total"),
    [
        (["rank_select=energy,error,budget", "methods=svd,tucker2,auto"], 9),
        (["rank_select.budget=range(0.1,0.5,0.1)", "seed=1"], 4),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2"], 2),
        (
            ["hydra/launcher=submitit_local", "data=glob(*)"],
            len(list(CONF.glob("data/[!_]*.yaml"))),
        ),
        (["rank_select.budget=interval(0,1)"], None),
        (["hydra/launcher=slurm", "hydra.launcher.partition=cpu", "seed=1,2"], 2),
        (["hydra/sweeper=search", "rank_select.budget=interval(0.1,0.9)"], 20),
        (["hydra/sweeper=front", "objectives=[accuracy,params]", "hydra.sweeper.n_trials=7"], 7),
    ],
)
def test_the_number_of_jobs_is_known_before(arguments: list[str], total: int | None) -> None:
    command = parse_command(["-m", *arguments])
    assert command.multirun
    assert command.overrides == tuple(arguments)
    assert describe_sweep(CONF, command).total == total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objectives=[acuracy]"], r"objectives: acuracy is unknown; did you mean 'accuracy'\?"),
        (["objectives=[]"], "choose at least one of accuracy"),
        (["hydra/launcher=ray"], r"hydra/launcher=ray: unknown option; .*\[ray\]"),
        (["hydra/sweeper=front"], r"direction=\[maximize,minimize\] does not suit objectives"),
        (
            ["hydra/sweeper=search", "objectives=[loss]"],
            r"whose directions are \[minimize\]; give the one that suits the other",
        ),
    ],
)
def test_what_cannot_work_is_said_before_any_job(arguments: list[str], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        describe_sweep(CONF, parse_command(["-m", *arguments]))


def test_a_study_in_a_database_needs_the_older_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    command = parse_command(["-m", "hydra/sweeper=search", "hydra.sweeper.storage=sqlite:///s.db"])
    monkeypatch.setattr("sqlalchemy.__version__", "2.0.40")
    with pytest.raises(LowRankError, match=r"requirements-optuna\.lock"):
        describe_sweep(CONF, command)
    monkeypatch.setattr("sqlalchemy.__version__", "1.4.54")
    assert describe_sweep(CONF, command).total == 20


def test_the_folder_reaches_hydra_whole(tmp_path: Path) -> None:
    command = parse_command(["-m", "seed=1,2", "hydra.sweep.dir=there"])
    assert describe_sweep(CONF, command).folder == Path("there").absolute()
    odd = tmp_path / "it's, a=folder"
    *rest, last = hydra_arguments(command, odd)
    assert rest == ["-m", "seed=1,2"]
    again = parse_command(["-m", "seed=1,2", last])
    assert describe_sweep(CONF, again).folder == odd


def test_what_options_share_is_no_option_of_a_glob(tmp_path: Path) -> None:
    command = parse_command(["-m", "rank_select=glob(e*)", "methods=glob([*],exclude=[auto])"])
    assert hydra_arguments(command, tmp_path)[1:3] == [
        "rank_select=glob([e*],exclude=[_*])",
        "methods=glob([*],exclude=[auto,_*])",
    ]


def test_resuming_keeps_the_sweep_and_may_change_the_launcher(tmp_path: Path) -> None:
    stored = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2"]
    make_sweep(tmp_path, overrides=tuple(stored))
    command = parse_command(["--resume", str(tmp_path), "hydra.launcher.n_jobs=4"])
    assert command.overrides == ("hydra/launcher=joblib", "seed=1,2", "hydra.launcher.n_jobs=4")
    assert command.multirun
    assert describe_sweep(CONF, command).folder == tmp_path
    with pytest.raises(LowRankError, match="--resume repeats a sweep: seed can't be changed"):
        parse_command(["--resume", str(tmp_path), "seed=3"])
    with pytest.raises(LowRankError, match=r"no sweep \(sweep.json is missing\)"):
        parse_command(["--resume", str(tmp_path / "none")])


def test_a_folder_is_that_of_one_sweep(tmp_path: Path) -> None:
    """Its record says which; another one would take its jobs for its own."""
    make_sweep(tmp_path, overrides=("seed=1,2", "hydra.launcher.n_jobs=2"))
    here = f"hydra.sweep.dir={tmp_path}"
    again = parse_command(["-m", "seed=1,2", here])
    assert describe_sweep(CONF, again).folder == tmp_path
    with pytest.raises(LowRankError, match=r"another sweep is there \(seed=1,2\); choose another"):
        describe_sweep(CONF, parse_command(["-m", "seed=1,3", here]))


def test_single_runs_are_as_before() -> None:
    command = parse_command(["seed=1", "--cfg", "job"])
    assert (command.multirun, command.overrides) == (False, ("seed=1",))
    assert not parse_command(["-m", "seed=1,2", "--cfg", "job"]).multirun


def test_the_first_word_may_be_a_command() -> None:
    assert named_command([]) == named_command(["run"]) == ("run", [])
    assert named_command(["plan", "seed=1"]) == ("plan", ["seed=1"])
    assert named_command(["-m", "seed=1,2"]) == ("run", ["-m", "seed=1,2"])
    assert named_command(["methods", "--help"]) == ("run", ["methods", "--help"])
    with pytest.raises(LowRankError, match=r"^exprt: neither a command .*did you mean 'export'"):
        named_command(["exprt", "out=there"])
    for name, module in BESIDE.items():
        assert name == module.rpartition(".")[2] and find_spec(module), name


def test_completions_of_a_shell_are_left_to_hydra() -> None:
    assert parse_command(["-sc", "install=bash"]).completes
    assert not parse_command(["seed=1"]).completes


def test_the_default_objective_is_the_most_telling_measure_of_the_task() -> None:
    assert chosen_objectives(None, get_task("classification")) == ["accuracy"]
    assert chosen_objectives(None, get_task("regression")) == ["r2"]
    own = Custom(loss=abs, measures={"iou": (max, "maximize")})
    assert chosen_objectives(None, own) == ["iou"]
    check_directions(["iou", "params"], ["maximize", "minimize"], own)
    with pytest.raises(LowRankError, match=r"objectives: iou is unknown"):
        chosen_objectives(["iou"], get_task("classification"))


def test_objectives_are_figures_of_the_fine_tuned_network() -> None:
    figures = Network({"accuracy": 0.9, "loss": 0.3}, Size(10, 20, file_bytes=30)).figures()
    assert read_objectives(["params", "accuracy"], figures) == {"params": 10, "accuracy": 0.9}
    timed = figures | asdict(Latency(latency_ms=1.5, iqr_ms=0.1))
    assert read_objectives(["latency_ms"], timed) == {"latency_ms": 1.5}
    with pytest.raises(LowRankError, match="this run has no latency_ms; it has accuracy, file"):
        read_objectives(["latency_ms"], figures)
    assert set(DIRECTIONS.values()) == {"maximize", "minimize"}


def test_readers_never_see_half_a_status(tmp_path: Path) -> None:
    long = replace(STATUS, error="x" * 100_000)
    write_status(tmp_path, long)
    seen, began, ended = {read_status(tmp_path).job}, threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            write_status(tmp_path, replace(long, job=number))
            began.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert began.wait(60)
        seen |= {read_status(tmp_path).job for _ in range(200)}
    finally:
        ended.set()
        writer.join()
    assert len(seen) > 1
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


STATUS = JobStatus(
    job=0,
    overrides=(),
    state="done",
    stages={"prepare": "cached", "baseline": "ran"},
    started=100.0,
    ended=112.0,
    host=socket.gethostname(),
    pid=os.getpid(),
    objectives={"accuracy": 0.5},
)


def make_job(sweep: Path, number: int, **changes: Any) -> None:
    ended = None if changes.get("state") == "running" else 112.0
    status = replace(STATUS, job=number, overrides=(f"seed={number}",), ended=ended)
    write_status(sweep / str(number), replace(status, **changes))


def change(workspace: Path, **changes: Any) -> None:
    write_status(workspace, replace(read_status(workspace), **changes))


def test_a_killed_job_is_not_waited_for(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    make_job(tmp_path, 0, state="running", pid=gone.pid)
    make_job(tmp_path, 1)
    start = time.monotonic()
    stop_jobs(tmp_path)
    assert time.monotonic() - start < 5
    (killed, done) = read_jobs(tmp_path)
    assert (killed.state, done.state) == ("failed", "done")
    assert killed.error == "the job's process was killed"
    change(tmp_path / "0", state="running")
    stop_jobs(tmp_path, "stopped")  # as after Ctrl-C
    assert read_jobs(tmp_path)[0].state == "stopped"


def test_running_jobs_see_the_stop_file(tmp_path: Path) -> None:
    make_job(tmp_path, 0, state="running")

    def obey() -> None:
        while not (tmp_path / ".stop").exists():
            time.sleep(0.02)
        change(tmp_path / "0", state="stopped")

    job = threading.Thread(target=obey)
    job.start()
    stop_jobs(tmp_path)
    job.join(5)
    assert read_jobs(tmp_path)[0].state == "stopped"


DESCRIBED = SweepDescription(Path("sweep"), (), ("accuracy",), ("maximize",), TrackOptions(), 1)


def test_one_launcher_a_sweep(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(LowRankError, match="running already"),
        opened(tmp_path, DESCRIBED, ROOT),
    ):
        pass


def test_jobs_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    make_job(tmp_path, 2, stages={"prepare": "cached", "baseline": "unchanged"})
    make_job(tmp_path, 0)
    make_job(tmp_path, 10, state="failed", error="no budget")
    jobs = read_jobs(tmp_path)
    assert [job.job for job in jobs] == [0, 2, 10]
    assert [job.folder for job in jobs] == ["0", "2", "10"]
    counted = count(jobs)
    assert (counted["done"], counted["cached"], counted["failed"]) == (2, 1, 1)


def test_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_job(tmp_path, 0)
    with sweep_view.sweep_view(tmp_path, 3):
        time.sleep(0.7)
        make_job(tmp_path, 1, state="failed", error="no budget")
        make_job(tmp_path, 2, state="running")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[1/3] job 0 (seed=0): accuracy 0.5; ran baseline; 0:12",
        "[2/3] job 1 (seed=1) failed: no budget",
    ]


def test_the_table_of_a_terminal(tmp_path: Path) -> None:
    make_job(tmp_path, 0)
    make_job(tmp_path, 1, state="failed", error="no budget")
    make_job(tmp_path, 2, state="running", stage="fine-tune", started=time.time() - 65)
    console = Console(file=io.StringIO(), width=300, force_terminal=True, highlight=False)
    console.print(sweep_view._table(tmp_path, read_jobs(tmp_path), 5, 60.0))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "5 jobs: 1 done (0 from the cache), 1 running, 1 failed; 1:00, about 1:30 left" in text
    assert re.search(r"seed=2 +fine-tune +1:05", text)
    assert f"file://{tmp_path}/2/job.log" in text  # the terminal opens the log from the number


def test_the_end_names_errors_logs_and_the_way_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_job(tmp_path, 0, state="failed", error="no budget")
    (tmp_path / "0/job.log").write_text("".join(f"line {n}\n" for n in range(20)))
    make_sweep(tmp_path, state="failed", total=1, jobs=read_jobs(tmp_path))
    sweep_view.print_outcome(tmp_path, read_record(tmp_path))
    output = capsys.readouterr().out
    assert "job 0 failed: no budget" in output
    assert "line 15\n" in output and "line 14\n" not in output
    assert f"log  {tmp_path}/0/job.log" in output
    assert f"python -m pipeline --resume {tmp_path}" in output


def test_locks_are_named_by_all_that_determines_a_stage() -> None:
    chain = {"a": {"cmd": "x", "params": ["seed"]}, "b": {"cmd": "y"}}
    key = stage_key(["a", "b"], chain, {"seed": 0, "other": 1})
    assert key == stage_key(["a", "b"], chain, {"seed": 0, "other": 2})
    assert key != stage_key(["a", "b"], chain, {"seed": 1, "other": 1})
    assert key != stage_key(["b"], chain, {"seed": 0})


def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """kill −9 of that process included: its end of the pipe closes."""
    child = (
        "import os, time;"
        "from pipeline.sweeps.runner import end_with_parent, stdin_closed;"
        "end_with_parent(stdin_closed); print(os.getpid(), flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE,"
        " start_new_session=True); time.sleep(600)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    started.kill()
    started.wait()
    wait_for("the end of the job", lambda: "Z" in _state(pid), 20)


def test_half_a_lock_file_of_a_killed_dvc_does_not_stay(tmp_path: Path) -> None:
    """DVC's runs would all fail at it."""
    left = tmp_path / "job/.dvc/tmp/rwlock"
    left.parent.mkdir(parents=True)
    left.write_text('{"out/data": ')
    make_workspace(ROOT, tmp_path / "job", {"seed": 0})
    assert not left.exists()


@pytest.mark.parametrize("name", ["a, b", "#1", "it's “ü”", 'a "b"'])
def test_a_workspace_finds_its_cache_under_any_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    for file in ("dvc.yaml", ".dvcignore", "pipeline", "stages"):
        (root / file).symlink_to(ROOT / file)
    make_workspace(root, root / "job", {"seed": 0})
    cache = Repo(root / "job").cache.local
    assert Path(cache.path) == root / ".dvc/cache/files/md5"


def test_small_results_are_no_links_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written into one reaches no other run, and no `dvc gc` takes it away."""
    monkeypatch.setattr("pipeline.sweeps.runner._SMALL", 10)
    make_workspace(ROOT, tmp_path, {"seed": 0})
    for name, content in {"small": "0123456789", "large": "0123456789a"}.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o444)
        (tmp_path / "out/data").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out/data" / name).symlink_to(tmp_path / name)
    own_small_files(Repo(tmp_path).cache.local, tmp_path)
    result = tmp_path / "out/data/small"
    assert not result.is_symlink() and (tmp_path / "out/data/large").is_symlink()
    result.write_text("edited")
    assert (tmp_path / "small").read_text() == "0123456789"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_records_are_json_with_the_documented_fields(tmp_path: Path) -> None:
    """And are read back as they were written."""
    make_job(tmp_path, 3, error="no budget")
    make_sweep(tmp_path, jobs=read_jobs(tmp_path))
    record, status = (
        json.loads((tmp_path / name).read_text()) for name in ("sweep.json", "3/status.json")
    )
    text = (ROOT / "docs/sweeps.md").read_text()
    tables = text[text.index("`sweep.json`:") :].split("`status.json`:")
    for table, value in zip(tables, (record, status), strict=True):
        assert set(re.findall(r"`(\w+)`", table)) >= set(value)
    assert record["jobs"] == [status | {"folder": "3"}]
    assert read_status(tmp_path / "3") == replace(
        STATUS, job=3, overrides=("seed=3",), error="no budget"
    )
    assert read_record(tmp_path).jobs == read_jobs(tmp_path)
    (tmp_path / "3/status.json").write_text('{"job": 3}')
    with pytest.raises(LowRankError, match=r"status\.json: overrides: Field required"):
        read_jobs(tmp_path)
