"""The promises of the chain, kept by the real tools on real digits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.data.files import load_split
from pipeline.lowrank.forms.files import load
from pipeline.tracking.figures import grouped
from pipeline.tracking.store import TAG_CONFIG, TAG_LOCK, flatten
from tests.chain import STAGES, Tree, make_tree, ran, restored

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(tree: Tree) -> Iterator[MlflowClient]:
    uri = f"sqlite:///{tree.path / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield MlflowClient(uri)
    mlflow.set_tracking_uri(before)


def tracked_run(tree: Tree, client: MlflowClient) -> Run:
    """The one finished run that track's output names."""
    names = read(tree, "out/mlflow_run.json")
    experiment = client.get_experiment_by_name(names["experiment"])
    query = f"tags.`{TAG_CONFIG}` = '{names['config']}' and tags.`{TAG_LOCK}` = '{names['lock']}'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    return run


def read(tree: Tree, name: str) -> Any:
    return json.loads((tree.path / name).read_text())


def test_the_report_holds_together(tree: Tree) -> None:
    metrics, plan = read(tree, "reports/metrics.json"), read(tree, "out/plan.json")
    dense, compressed = metrics["dense"], metrics["compressed"]
    assert metrics["fine_tuned"]["params"] == compressed["params"]
    assert compressed["params"] == plan["expected"]["planned"]["params"] < dense["params"]
    assert compressed["macs"] == plan["expected"]["planned"]["macs"] < dense["macs"]
    assert plan["policy"]["name"] == "budget"
    unit = "params" if plan["policy"]["params"] is not None else "macs"
    assert compressed[unit] <= plan["policy"][unit] * dense[unit]
    assert metrics["fine_tuned"]["accuracy"] > 0.5
    assert 0 <= plan["expected"]["optimality_gap"] < 1
    for name, layer in read(tree, "out/compressed/layers.json")["layers"].items():
        measured = layer["measured_relative_error"]
        assert layer["lower_bound"] - 1e-5 <= measured <= layer["upper_bound"] + 1e-5, name
        if layer["error_kind"] == "exact":
            assert measured == pytest.approx(layer["predicted_relative_error"], abs=1e-5)


def test_no_output_of_dvc_holds_a_timing_or_a_path(tree: Tree) -> None:
    for name in ("reports/metrics.json", "out/plan.json", "out/compressed/layers.json"):
        text = (tree.path / name).read_text()
        assert "latency" not in text.replace('"latency": null', ""), "none was budgeted"
        assert str(tree.path) not in text


def test_a_second_repro_runs_nothing_and_leaves_git_clean(tree: Tree) -> None:
    assert tree.repro() == []
    assert "up to date" in tree.run("dvc", "status")
    changed = tree.run("git", "status", "--porcelain").split("\n")
    assert [line for line in changed if line and "dvc.lock" not in line] == []


def test_one_run_in_mlflow_with_everything(tree: Tree, client: MlflowClient) -> None:
    run = tracked_run(tree, client)
    assert run.info.status == "FINISHED"
    params = yaml.safe_load((tree.path / "params.yaml").read_text())
    assert run.data.params == {key: str(value) for key, value in flatten(params)}
    metrics = read(tree, "reports/metrics.json")
    for key, value in flatten(metrics):
        if isinstance(value, int | float):
            assert run.data.metrics[grouped(key)] == pytest.approx(float(value)), key
    groups = {name.partition("/")[0] for name in run.data.metrics}
    assert groups >= {"quality", "size", "latency", "bounds", "spectra", "plan", "seconds"}
    assert run.data.metrics["latency/fine_tuned.latency_ms"] > 0
    assert run.data.metrics["latency/speedup"] > 0
    took = sum(run.data.metrics[f"seconds/{stage}"] for stage in STAGES[1:-1])
    assert (run.info.end_time - run.info.start_time) / 1000 >= took > 0
    assert run.info.run_name.endswith("of params fine_tune all")
    said = run.data.tags["mlflow.note.content"]
    assert "accuracy " in said.partition("\n")[0]
    assert "dvc repro" in said and "interpolative" in said
    curve = read(tree, "out/fine_tuned/curve.json")
    logged = client.get_metric_history(run.info.run_id, "fine_tune/validation_loss")
    assert [(m.step, m.value) for m in logged] == [
        (e["step"], pytest.approx(e["validation_loss"])) for e in curve["epochs"]
    ]
    steps = client.get_metric_history(run.info.run_id, "baseline/train_loss")
    assert len(steps) == len(read(tree, "out/baseline/curve.json")["steps"])
    assert {"lowrank.config", "lowrank.lock", "mlflow.source.git.commit"} <= run.data.tags.keys()
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "digits"
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"plan.json", "params.yaml", "dvc.lock", "layers.json", "plots"} <= artifacts
    assert "report.html" in artifacts


def test_exact_invalidation(tree: Tree, tmp_path: Path) -> None:
    """Each change reruns what it must and no more; changing back reruns nothing but track."""
    lock = (tree.path / "dvc.lock").read_text()
    plan = (tree.path / "out/plan.json").read_text()
    tree.edit("conf/fine_tune/_base.yaml", "learning_rate: ", "learning_rate: 0.003 # ")
    assert tree.repro() == ["configure", "fine-tune", "evaluate", "track"]
    assert (tree.path / "out/plan.json").read_text() == plan

    tree.run("git", "checkout", "--quiet", "conf")
    tree.edit("conf/config.yaml", "rank_select: budget", "rank_select: energy")
    assert tree.repro() == list(STAGES[:1]) + list(STAGES[4:])
    assert (tree.path / "out/plan.json").read_text() != plan
    by_energy = (tree.path / "dvc.lock").read_text()

    tree.run("git", "checkout", "--quiet", "conf")
    assert set(tree.repro()) <= {"configure", "track"}
    assert (tree.path / "out/plan.json").read_text() == plan
    now = yaml.safe_load((tree.path / "dvc.lock").read_text())["stages"]
    assert now == yaml.safe_load(lock)["stages"]
    compare_commits_in_a_clone(tree, [lock, by_energy], tmp_path / "clone")


def compare_commits_in_a_clone(tree: Tree, locks: Sequence[str], place: Path) -> None:
    """docs/chain.md: of two commits that a clone did not compute, a remote has the results."""
    clone = Tree(place)
    tree.run("git", "clone", "--quiet", ".", str(place))
    for lock in locks:
        (place / "dvc.lock").write_text(lock)
        clone.run("git", "add", "dvc.lock")
        clone.run(
            "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "l"
        )
    remote = str(tree.path / ".dvc/cache")
    clone.run("dvc", "remote", "add", "--quiet", "--local", "--default", "shared", remote)
    commits = ("HEAD~1", "HEAD")
    told = clone.run("dvc", "metrics", "diff", *commits)
    assert re.search(r"metrics\.json +fine_tuned\.params +\d+ +\d+ ", told), told
    told = clone.run("dvc", "params", "diff", *commits)
    assert re.search(r"^params\.yaml +rank_select\.policy +budget +energy$", told, re.M), told
    clone.run("dvc", "plots", "diff", *commits)
    assert "HEAD~1" in (place / "dvc_plots/index.html").read_text()


def test_a_word_in_a_solver_does_not_train_the_network_again(tree: Tree) -> None:
    """What a layer is stands apart from how its factors are found: opening a network needs no
    solver."""
    assert "up to date" in tree.run("dvc", "status")
    tree.edit("pipeline/lowrank/methods/cp.py", "fitted by alternating", "found by alternating")
    status = tree.run("dvc", "status")
    changed = {line.rstrip(":") for line in status.splitlines() if re.match(r"[a-z]", line)}
    assert {"configure", "rank-select", "decompose"} <= changed, status
    assert changed.isdisjoint({"prepare", "baseline", "analyze", "fine-tune"}), status
    tree.run("git", "checkout", "--quiet", "pipeline")
    assert "up to date" in tree.run("dvc", "status")


def test_an_edited_plan_is_an_input_of_its_own(tree: Tree) -> None:
    """docs/plans.md: an edit is told layer by layer, pinned by its content, and reaches no run
    that did not ask for it."""
    plan = read(tree, "out/plan.json")
    name = next(n for n, layer in plan["layers"].items() if layer["method"] == "interpolative")
    dimension = next(
        members
        for one in plan["narrowing"]["found"].values()
        if name in (members := [m["layer"] for m in one["members"][: one["targets"]]])
    )

    def edit(width: int) -> None:
        for layer in dimension:
            plan["layers"][layer] |= {"ranks": [width], "why": "by hand"}

    edit(6)
    (tree.path / "my_plan.json").write_text(json.dumps(plan))
    chosen = ("rank_select=file", "rank_select.path=my_plan.json", "fine_tune=none")
    output = tree.pipeline(*chosen, "hydra.run.dir=edited")
    assert {"prepare", "baseline", "analyze"}.isdisjoint(ran(output)), output
    before = plan["expected"]["layers"][name]
    made = read(tree, "edited/out/plan.json")
    after = made["expected"]["layers"][name]
    assert made["layers"][name] == {**plan["layers"][name]} and after["ranks"] == [6]
    assert f"{name}: {before['params']:,} → {after['params']:,} parameters" in output
    assert made["policy"]["name"] == "file" and len(made["policy"]["sha256"]) == 64
    report = read(tree, "edited/out/compressed/layers.json")["layers"][name]
    assert report["ranks"] == [6] and report["params"] == after["params"]
    # The same command runs nothing; a change of a digit is another plan; dvc repro knows none.
    assert ran(tree.pipeline(*chosen, "hydra.run.dir=edited")) == []
    edit(5)
    (tree.path / "my_plan.json").write_text(json.dumps(plan))
    assert "rank-select" in ran(tree.pipeline(*chosen, "hydra.run.dir=again"))
    assert read(tree, "again/out/plan.json")["layers"][name]["ranks"] == [5]
    assert set(tree.repro()) <= {"configure", "track"}
    assert "by hand" not in (tree.path / "out/plan.json").read_text()
    # What is wrong with it is one line, before anything is built.
    edit(999)
    (tree.path / "my_plan.json").write_text(json.dumps(plan))
    output = tree.pipeline(*chosen, ok=False)
    assert (
        f"layer '{name}'" in output and "takes one width in 1.." in output and "not [999]" in output
    )
    assert "Traceback" not in output
    (tree.path / "my_plan.json").unlink()


def test_two_clones_give_the_same_files_and_the_same_lock(tree: Tree, tmp_path: Path) -> None:
    """The second without Git, as from an unpacked archive."""
    other = make_tree(tmp_path / "archive", git=False)
    assert other.repro() == list(STAGES)
    for name in ("out/plan.json", "reports/metrics.json", "reports/layers.csv"):
        assert (tree.path / name).read_bytes() == (other.path / name).read_bytes(), name
    locks = [yaml.safe_load((t.path / "dvc.lock").read_text())["stages"] for t in (tree, other)]
    assert locks[0] == locks[1]


def test_a_job_shares_the_run_cache_both_ways(tree: Tree) -> None:
    overrides = ("rank_select=error", "rank_select.relative_error=0.5", "fine_tune.epochs=1")
    shared = {"prepare", "baseline", "analyze"}
    planned = tree.pipeline("plan", *overrides)
    assert (ran(planned), set(restored(planned))) == (["rank-select"], shared), planned
    assert (
        "network: " in planned and f"build it   python -m pipeline {' '.join(overrides)}" in planned
    )
    leaving = ("track.log_model=true", "evaluate.export=[torch,onnx]")
    output = tree.pipeline(*overrides, *leaving)
    assert ran(output) == ["decompose", "fine-tune", "evaluate"], output
    assert set(restored(output)) == shared | {"rank-select"}
    assert "fine-tuned" in output
    assert "MLflow run" in output
    (network,) = re.findall(r"^network +(\S+)$", output, re.MULTILINE)
    assert (tree.path / network / "model.safetensors").is_file()

    again = tree.pipeline(*overrides, *leaving)
    assert ran(again) == []
    assert "in MLflow already" in again

    # The same options in conf/: a plain dvc repro restores what the job computed.
    tree.edit("conf/config.yaml", "rank_select: budget", "rank_select: error")
    tree.edit("conf/rank_select/_base.yaml", "relative_error: 0.3", "relative_error: 0.5")
    tree.edit("conf/fine_tune/_base.yaml", "epochs: 2", "epochs: 1")
    tree.edit("conf/evaluate/_base.yaml", "export: []", "export: [torch, onnx]")
    assert set(tree.repro()) <= {"configure", "track"}
    assert read(tree, "out/plan.json")["policy"]["name"] == "error"


def test_the_logged_model_loads_and_gives_the_same_outputs(
    tree: Tree, client: MlflowClient
) -> None:
    """Those of the job, which ran twice and logged it once: the chain stands there now."""
    run = tracked_run(tree, client)
    (model,) = run.outputs.model_outputs
    loaded = mlflow.pytorch.load_model(f"models:/{model.model_id}")
    split = load_split(tree.path / "out/data", "test")
    inputs, _ = split.batch(slice(0, 16))
    expected = load(tree.path / "out/fine_tuned")(inputs)
    with torch.no_grad():  # it normalises by itself
        assert torch.allclose(loaded(split.stored[:16]), expected, atol=1e-5)


def test_the_exports_of_a_job_are_outputs_and_artifacts(
    tree: Tree, client: MlflowClient, tmp_path: Path
) -> None:
    """Those of the same job: from DVC's cache in the chain's own folder, and in MLflow."""
    made = read(tree, "out/exports/exports.json")
    assert (set(made["made"]), made["refused"]) == ({"torch", "onnx"}, {})
    outputs = yaml.safe_load((tree.path / "dvc.lock").read_text())["stages"]["evaluate"]["outs"]
    (entry,) = (one for one in outputs if one["path"] == "out/exports")
    files = [path for path in (tree.path / "out/exports").rglob("*") if path.is_file()]
    assert entry["nfiles"] == len(files) and entry["md5"].endswith(".dir")
    run = tracked_run(tree, client)
    place = client.download_artifacts(run.info.run_id, "exports/onnx/model.onnx", str(tmp_path))
    assert Path(place).read_bytes() == (tree.path / "out/exports/onnx/model.onnx").read_bytes()
    session = pytest.importorskip("onnxruntime").InferenceSession(place)
    inputs, _ = load_split(tree.path / "out/data", "test").batch(slice(0, 16))
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    expected = load(tree.path / "out/fine_tuned")(inputs)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)


def test_equal_results_are_logged_once(tree: Tree, client: MlflowClient) -> None:
    runs = client.search_runs([client.get_experiment_by_name("lowrank").experiment_id])
    finished = [r for r in runs if r.info.status == "FINISHED"]
    keys = [(r.data.tags["lowrank.config"], r.data.tags["lowrank.lock"]) for r in finished]
    assert len(keys) == len(set(keys)) >= 3


def test_a_failing_stage_says_why_and_keeps_earlier_outputs(tree: Tree) -> None:
    before = (tree.path / "reports/metrics.json").read_bytes()
    output = tree.pipeline("rank_select.budget=0.0001", ok=False)
    assert "a budget of 0.0001 of the params cannot be met" in output
    assert "choose at least 0." in output
    assert "Traceback" not in output
    output = tree.pipeline("rank_select.enrgy=0.5", ok=False)
    assert output.startswith("error: rank_select.enrgy: unknown key; did you mean")
    assert "Traceback" not in output
    # It would change params.yaml, which configure writes, and run the default.
    params = (tree.path / "params.yaml").read_bytes()
    output = tree.run("dvc", "exp", "run", "-S", "rank_select.budget=0.9", ok=False)
    assert "instead of dvc exp run: python -m pipeline KEY=VALUE" in output
    assert (tree.path / "params.yaml").read_bytes() == params
    tree.edit("conf/config.yaml", "seed: 0", "seed: zero")
    output = tree.run("dvc", "repro", ok=False)
    assert "error: seed=zero: choose a whole number" in output
    assert "Traceback" not in output
    assert (tree.path / "reports/metrics.json").read_bytes() == before
