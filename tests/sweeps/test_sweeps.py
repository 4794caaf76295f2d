"""Sweeps by the real tools: shared work once, failures, resuming, MLflow, a remote."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pytest
import yaml
from filelock import FileLock
from mlflow import MlflowClient

from pipeline.tracking.store import TAG_CONFIG, TAG_LOCK, TAG_SWEEP
from tests.chain import STAGES, Tree, ran, wait_for
from tests.imports import ROOT
from tests.sweeps.small_tree import make_small_tree, ran_in, record
from tests.tracking.tracking_server import POSTGRES, postgres, serving

pytestmark = pytest.mark.e2e

COMMANDS = [
    line
    for block in re.findall(
        r"^```bash\n(.*?)^```", (ROOT / "docs/sweeps.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for line in block.splitlines()
]


def documented(word: str) -> str:
    """The one command of docs/sweeps.md that has this word."""
    (command,) = (command for command in COMMANDS if word in command)
    return command


# Each is run below, as it stands there but for a folder of its own.
GRID, JOBLIB = documented("svd,tucker2,auto"), documented("launcher=joblib")
SUBMITIT, SEARCH, FRONT = (documented(w) for w in ("submitit_local", "sweeper=search", "=front"))
REMOTE, PUSH = documented("dvc remote add"), documented("share push")
PART = ("rank_select=error", "methods=svd,tucker2")


def test_every_command_of_the_documentation_is_run_here() -> None:
    assert set(COMMANDS) == {GRID, JOBLIB, SUBMITIT, SEARCH, FRONT, REMOTE, PUSH}


def run_sweep(tree: Tree, command: str, folder: str) -> str:
    output = tree.run("bash", "-euc", f"{command} hydra.sweep.dir={folder}")
    assert "Traceback" not in output
    assert "MLflow run" in output
    return output


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree in which the cold sweep `first` of six jobs, two at once, has run."""
    tree = make_small_tree(tmp_path_factory.mktemp("sweeps") / "tree")
    two_at_once = "hydra/launcher=joblib hydra.launcher.n_jobs=2"
    output = run_sweep(tree, f"{GRID.replace(',auto', '')} {two_at_once}", "first")
    assert "6 jobs: 6 done" in output
    return tree


@pytest.fixture
def client(tree: Tree) -> MlflowClient:
    return MlflowClient(f"sqlite:///{tree.path / 'mlflow.db'}")


def test_a_cold_parallel_sweep_computes_shared_stages_once(tree: Tree) -> None:
    sweep = record(tree, "first")
    assert sweep["state"] == "done"
    assert [job["job"] for job in sweep["jobs"]] == list(range(6))
    counted = Counter(ran_in(sweep["jobs"]))
    assert {s: counted[s] for s in ("prepare", "baseline", "analyze")} == {
        "prepare": 1, "baseline": 1, "analyze": 1,
    }  # fmt: skip
    assert counted["rank-select"] == 6
    # What the jobs said is the same.
    logs = [(tree.path / "first" / job["folder"] / job["log"]).read_text() for job in sweep["jobs"]]
    assert Counter(ran("\n".join(logs))) == counted
    plans = {(tree.path / f"first/{n}/out/plan.json").read_text() for n in range(6)}
    assert len(plans) == 6


def test_the_sweep_is_one_parent_with_a_child_a_job(tree: Tree, client: MlflowClient) -> None:
    sweep = record(tree, "first")
    parent = client.get_run(sweep["parent_run_id"])
    assert parent.info.status == "FINISHED"
    values = [job["objectives"]["accuracy"] for job in sweep["jobs"]]
    assert parent.data.metrics["best/accuracy"] == max(values)
    assert values[int(parent.data.metrics["best/accuracy.job"])] == max(values)
    assert parent.data.metrics["jobs/done"] == 6
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = client.search_runs([parent.info.experiment_id], query)
    assert {run.info.run_id for run in children} == {job["run_id"] for job in sweep["jobs"]}
    for run in children:
        job = sweep["jobs"][int(run.data.tags[TAG_SWEEP + parent.info.run_id])]
        assert run.info.status == "FINISHED"
        assert run.info.run_id == job["run_id"]
        assert run.data.metrics["quality/fine_tuned.accuracy"] == job["objectives"]["accuracy"]
        chosen = dict(override.split("=") for override in job["overrides"])
        assert run.data.params["rank_select.policy"] == chosen["rank_select"]
        assert {TAG_CONFIG, TAG_LOCK, "mlflow.source.git.commit"} <= run.data.tags.keys()
        artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
        assert {"plan.json", "report.html", "plots"} <= artifacts
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"comparison.html", "sweep.json"}


def test_a_second_sweep_computes_and_logs_nothing_again(tree: Tree, client: MlflowClient) -> None:
    (experiment,) = {e.experiment_id for e in client.search_experiments() if e.name == "lowrank"}
    before = len(client.search_runs([experiment]))
    run_sweep(tree, SUBMITIT, "second")  # all in `first`
    sweep = record(tree, "second")
    assert len(sweep["jobs"]) == 2
    assert ran_in(sweep["jobs"]) == []
    assert len(client.search_runs([experiment])) == before + 1  # the parent
    linked = client.search_runs([experiment], f"tags.`{TAG_SWEEP}{sweep['parent_run_id']}` != ''")
    assert {run.info.run_id for run in linked} == {job["run_id"] for job in sweep["jobs"]}
    first = record(tree, "first")
    assert {run.info.run_id for run in linked} <= {job["run_id"] for job in first["jobs"]}


def test_a_job_of_a_parallel_sweep_gives_the_bits_of_a_single_run(
    tree: Tree, tmp_path: Path
) -> None:
    """The worker's OMP_NUM_THREADS and its warm processes included, with nothing shared."""
    job = record(tree, "first")["jobs"][3]
    alone = make_small_tree(tmp_path / "alone")
    command = (sys.executable, "-m", "pipeline", *job["overrides"], "hydra.run.dir=run")
    output = alone.run("env", "OMP_NUM_THREADS=2", *command)
    assert ran(output) == [s for s in STAGES if s not in ("configure", "track")]
    for name in ("out/plan.json", "reports/metrics.json", "dvc.lock"):
        mine = (alone.path / "run" / name).read_text()
        assert mine == (tree.path / "first" / job["folder"] / name).read_text(), name


def test_running_a_job_alone_adds_its_model_to_its_run(tree: Tree, client: MlflowClient) -> None:
    job = record(tree, "first")["jobs"][2]
    before = client.get_run(job["run_id"])
    assert before.outputs.model_outputs == []
    output = tree.pipeline(*job["overrides"], "track.log_model=true")
    assert f"MLflow run {job['run_id']}" in output
    run = client.get_run(job["run_id"])
    assert (run.info.status, run.info.end_time) == ("FINISHED", before.info.end_time)
    (logged,) = run.outputs.model_outputs
    model = mlflow.pytorch.load_model(client.get_logged_model(logged.model_id).artifact_location)
    assert sum(p.numel() for p in model.parameters()) == run.data.metrics["size/fine_tuned.params"]


def test_a_search_finds_its_best_job(tree: Tree) -> None:
    assert "2 jobs: 2 done" in run_sweep(tree, SEARCH, "search")
    jobs = record(tree, "search")["jobs"]
    found = yaml.safe_load((tree.path / "search/optimization_results.yaml").read_text())
    assert found["best_value"] == max(job["objectives"]["accuracy"] for job in jobs)


def test_a_study_of_two_objectives_finds_its_front(tree: Tree) -> None:
    assert "2 jobs: 2 done" in run_sweep(tree, FRONT, "study")
    jobs = record(tree, "study")["jobs"]
    found = yaml.safe_load((tree.path / "study/optimization_results.yaml").read_text())
    values = [tuple(job["objectives"].values()) for job in jobs]
    best = {v for v in values if not any(w[0] >= v[0] and w[1] <= v[1] and w != v for w in values)}
    assert {tuple(solution["values"]) for solution in found["solutions"]} == best


def test_a_failed_job_is_named_and_stops_no_other(tree: Tree) -> None:
    jobs = ("rank_select.budget=0.00001,0.5", "methods=svd")
    output = tree.pipeline("-m", *jobs, "hydra.sweep.dir=failing", ok=False)
    assert "Traceback" not in output
    assert "job 0 failed: a budget of 1e-05 of the params cannot be met" in output
    assert "2 jobs: 1 done (1 from the cache), 1 failed" in output
    states = [job["state"] for job in record(tree, "failing")["jobs"]]
    assert states == ["failed", "done"]
    again = tree.pipeline("--resume", "failing", ok=False)
    assert "2 jobs: 1 done (1 from the cache), 1 failed" in again


def test_a_second_clone_restores_the_sweep_from_a_remote(tree: Tree, tmp_path: Path) -> None:
    tree.run("bash", "-euc", REMOTE.replace("/tmp", str(tmp_path)))
    assert "files moved" in tree.run("bash", "-euc", PUSH)
    clone = make_small_tree(tmp_path / "clone")
    shutil.copy(tree.path / ".dvc/config", clone.path / ".dvc/config")
    clone.run(sys.executable, "-m", "pipeline.sweeps.share", "pull")
    output = clone.pipeline("-m", *PART, "hydra.sweep.dir=restored")
    assert "2 jobs: 2 done (2 from the cache)" in output
    for job in record(clone, "restored")["jobs"]:
        (same,) = (
            j for j in record(tree, "first")["jobs"] if set(j["overrides"]) == set(job["overrides"])
        )
        for name in ("out/plan.json", "reports/metrics.json", "dvc.lock"):
            mine = (clone.path / "restored" / job["folder"] / name).read_text()
            assert mine == (tree.path / "first" / same["folder"] / name).read_text()


def processes_in(folder: Path) -> dict[int, str]:
    """Command lines of the processes that work below `folder`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = Path(os.readlink(process / "cwd")).is_relative_to(folder)
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # gone meanwhile
            continue
        if inside and words:
            found[int(process.name)] = words
    return found


@pytest.fixture
def interrupted(tree: Tree) -> Iterator[subprocess.Popen[str]]:
    """A sweep on another seed (nothing cached), ended by Ctrl-C while its stages run."""
    command = [sys.executable, *shlex.split(JOBLIB)[1:], "seed=1", "hydra.sweep.dir=interrupted"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        # A shell starts what it runs in the background deaf to Ctrl-C, and so would be this.
        ["env", "--default-signal=INT", *command],
        cwd=tree.path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def test_ctrl_c_leaves_nothing_and_resume_computes_the_rest(
    tree: Tree, interrupted: subprocess.Popen[str]
) -> None:
    logs = [tree.path / "interrupted" / n / "job.log" for n in ("0", "1")]
    started = lambda: any(  # noqa: E731
        log.is_file() and "of 9: baseline" in log.read_text() for log in logs
    )
    wait_for("baseline", started, 300)
    interrupted.send_signal(signal.SIGINT)
    output, _ = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130, output
    assert "Traceback" not in output
    assert f"--resume {tree.path / 'interrupted'}" in output
    wait_for("the end of all processes", lambda: not processes_in(tree.path), 60)
    for lock in (tree.path / ".scratch/locks").glob("*.lock"):
        with FileLock(lock, timeout=0):
            pass
    sweep = record(tree, "interrupted")
    assert sweep["state"] == "stopped"
    assert {job["state"] for job in sweep["jobs"]} == {"stopped"}

    ended = {s for job in sweep["jobs"] for s in job["stages"]} - {"baseline"}
    output = tree.pipeline("--resume", "interrupted")
    assert "2 jobs: 2 done" in output
    resumed = record(tree, "interrupted")
    assert resumed["parent_run_id"] == sweep["parent_run_id"]
    again = ran_in(resumed["jobs"])
    assert ended.isdisjoint(again)
    assert (again.count("baseline"), again.count("rank-select")) == (1, 2)


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_tracking_server(tree: Tree, tmp_path: Path, store: str) -> None:
    """Jobs log to a real server, artifacts included, which needs no access to its files."""
    with ExitStack() as stack:
        if store == "sqlite":
            backend = f"sqlite:///{tmp_path / 'server.db'}"
        elif not POSTGRES or importlib.util.find_spec("psycopg2") is None:
            pytest.skip("needs Debian's package postgresql and psycopg2-binary")
        else:
            backend = stack.enter_context(postgres())
        uri = stack.enter_context(serving(backend, tmp_path / "artifacts"))
        options = (f"track.tracking_uri={uri}", f"hydra.sweep.dir=served-{store}")
        output = tree.pipeline("-m", *PART[:1], "methods=svd", *options)
        assert "1 jobs: 1 done (1 from the cache)" in output
        sweep = record(tree, f"served-{store}")
        client = MlflowClient(uri)
        (job,) = sweep["jobs"]
        run = client.get_run(job["run_id"])
        assert run.data.tags["mlflow.parentRunId"] == sweep["parent_run_id"]
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        plan = client.download_artifacts(job["run_id"], "plan.json", str(tmp_path))
        assert json.loads(Path(plan).read_text())["policy"]["name"] == "error"
    assert re.search(r"https?://127", sweep["tracking_uri"])
