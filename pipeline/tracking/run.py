"""One MLflow run for one run of the chain, from the files that its stages wrote."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

from pipeline.evaluation.latency import measured_once
from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.timings import Timings
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.typed import options_from
from pipeline.reporting.run.metrics import FILE as METRICS
from pipeline.reporting.run.metrics import read_metrics
from pipeline.reporting.run.timings import FOLDERS
from pipeline.tracking.artifacts import has_model, log_artifacts, log_dataset, log_model
from pipeline.tracking.live import take_live_run
from pipeline.tracking.store import (
    TAG_CONFIG,
    TAG_LOCK,
    config_hash,
    log_points,
    main_root,
    open_client,
    parent_tags,
    track_options,
)
from pipeline.training.curve import read_curve, values_at

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 100  # MLflow's limit on parameters a request
_PACKAGES = ("torch", "tensorly", "lightning-fabric", "safetensors", "dvc", "hydra-core", "mlflow")


@dataclass(frozen=True)
class RunName:
    """The name by which a run is found again under any id: the experiment and the two tags."""

    experiment: str
    config: str
    lock: str


def track_run(root: Path, params: Mapping[str, Any]) -> tuple[str, RunName]:
    """Logs the run whose outputs lie in `root`; returns its id and its name.

    An equal run (same configuration, same dvc.lock) that is there already is not logged
    again: its id is returned. A live run of the same configuration is completed. The model is
    logged by single runs only: of a sweep's jobs few are ever used, and running one of those alone
    adds the model to its run.
    """
    track = track_options(params)
    client, experiment = open_client(track)
    config, lock = config_hash(params), lock_hash(root)
    with_model = track.log_model and not parent_tags()
    locks = main_root() / ".scratch" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"track-{config}-{lock}.lock"):  # two equal jobs of a sweep, one run
        run_id = _finished(client, experiment, config, lock)
        if run_id is None:
            tags = {TAG_CONFIG: config, TAG_LOCK: lock, **parent_tags()}
            run_id = _log_run(client, experiment, root, params, tags)
        else:
            print(f"track: this run is in MLflow already ({run_id})")
        if with_model and not has_model(client, run_id):
            log_model(client, run_id, root)
    return run_id, RunName(track.experiment, config, lock)


def measured(root: Path, params: Mapping[str, Any], *, again_if_busy: bool = False) -> Timings:
    """Latencies of the networks in `root`, measured or remembered as by `measured_once`."""
    folders = {name: root / folder for name, folder in FOLDERS.items()}
    options = options_from(EvaluateOptions, params["evaluate"], "evaluate")
    threads = params["fabric"]["threads"]
    return measured_once(folders, root / "out/data", options, threads, again_if_busy=again_if_busy)


def lock_hash(root: Path) -> str:
    """Names a result: hash of dvc.lock, less the two stages that jobs run without."""
    path = root / "dvc.lock"
    if not path.is_file():  # stages run by hand, one by one
        return "none"
    # By libyaml: PyYAML's own parser takes as long as all else that a cached job is tracked by.
    stages = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["stages"]
    chosen = {name: s for name, s in stages.items() if name not in ("configure", "track")}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} → ("a.b", 1)."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _finished(client: MlflowClient, experiment: str, config: str, lock: str) -> str | None:
    runs = client.search_runs(
        [experiment],
        f"tags.`{TAG_CONFIG}` = '{config}' and tags.`{TAG_LOCK}` = '{lock}' "
        "and attributes.status = 'FINISHED'",
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


def _log_run(
    client: MlflowClient,
    experiment: str,
    root: Path,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    live = take_live_run(client, root, tags[TAG_CONFIG])
    run_id = live.run_id if live else client.create_run(experiment).info.run_id
    with _marked_if_failed(client, run_id):
        plan = load_plan(root / "out/plan.json")
        client.update_run(run_id, name=_run_name(params, plan))
        for key, value in {**tags, **_provenance(root)}.items():
            client.set_tag(run_id, key, value)
        _log_params(client, run_id, params)
        _log_metrics(client, run_id, _metrics(root, params, plan))
        for stage, folder in (("baseline", "baseline"), ("fine_tune", "fine_tuned")):
            if live is None or stage not in live.stages:
                _log_curve(client, run_id, stage, root / "out" / folder)
        log_dataset(client, run_id, root)
        log_artifacts(client, run_id, root)
        client.set_terminated(run_id, "FINISHED")
    return run_id


@contextmanager
def _marked_if_failed(client: MlflowClient, run_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise


def _run_name(params: Mapping[str, Any], plan: Plan) -> str:
    """A short name that tells runs apart: data, methods, policy and how much it kept."""
    kept = plan.expected.planned.params / plan.expected.dense.params
    methods = "+".join(dict.fromkeys(layer.method for layer in plan.factorized.values()))
    return f"{params['data']['name']} {methods} {plan.policy.name} {kept:.0%} of params"


def _metrics(root: Path, params: Mapping[str, Any], plan: Plan) -> dict[str, float]:
    timings = measured(root, params)
    value = read_metrics(root / "reports" / METRICS).to_json()
    value |= {name: network | value.get(name, {}) for name, network in _latencies(timings).items()}
    value |= {"speedup": timings.speedup, "batch_size": timings.batch_size}
    value |= {"tokens": timings.tokens, "optimality_gap": plan.optimality_gap}
    return {key: float(one) for key, one in flatten(value) if isinstance(one, int | float)}


def _latencies(timings: Timings) -> dict[str, dict[str, float]]:
    return {
        name: {**asdict(latency), "busy": latency.busy}
        for name, latency in timings.networks.items()
    }


def _provenance(root: Path) -> dict[str, str]:
    """The commit, if there is one, and the versions with which a result was computed."""
    tags = {f"version.{name}": version(name) for name in _PACKAGES}
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
        cwd=main_root(),
    )
    if git.returncode == 0:
        tags["mlflow.source.git.commit"] = git.stdout.strip()
    return tags


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in flatten(params)]
    for start in range(0, len(entries), _BATCH):
        client.log_batch(run_id, params=entries[start : start + _BATCH])


def _log_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(k, v, now, 0) for k, v in values.items()])


def _log_curve(client: MlflowClient, run_id: str, stage: str, folder: Path) -> None:
    """Logs the curve of a stage that came from the cache, under the names and steps of a live
    one."""
    curve = read_curve(folder)
    now = int(time.time() * 1000)
    points = [
        (f"{stage}.{name}", float(value), now, point.step)
        for point in curve.points
        for name, value in values_at(point).items()
    ]
    log_points(client, run_id, points)
