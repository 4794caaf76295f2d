"""One MLflow run for one run of the chain, from the files that its stages wrote."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

from pipeline.evaluation.latency import measured_once
from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.timings import Timings
from pipeline.lowrank.methods.interpolative import methods_in
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.planning.plan import DENSE
from pipeline.lowrank.typed import options_from
from pipeline.machine.devices import FabricOptions
from pipeline.machine.durations import durations
from pipeline.reporting.run.page.write import write_page
from pipeline.reporting.run.timings import FOLDERS
from pipeline.tracking.artifacts import log_artifacts, log_dataset
from pipeline.tracking.description import description
from pipeline.tracking.figures import figures
from pipeline.tracking.live import take_live_run
from pipeline.tracking.models import log_model, model_of, register
from pipeline.tracking.naming import run_name
from pipeline.tracking.store import (
    NOTE,
    TAG_CONFIG,
    TAG_LOCK,
    close_failed,
    config_hash,
    log_params,
    log_points,
    main_root,
    open_client,
    parent_tags,
    track_options,
)
from pipeline.training.curve import read_curve, values_at

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
            write_page(root)
            print(f"track: this run is in MLflow already ({run_id})")
        if with_model:
            _keep_model(client, run_id, root, params)
    return run_id, RunName(track.experiment, config, lock)


def _keep_model(client: MlflowClient, run_id: str, root: Path, params: Mapping[str, Any]) -> None:
    """The run has its model, and the registry too where the options name one."""
    track = track_options(params)
    if model_of(client, run_id) is None:
        log_model(client, run_id, root, [params["model"]["_target_"]])
    if track.register is None:
        return
    model = model_of(client, run_id)
    if model is None:
        print(f"track: not registered as {track.register}, as MLflow holds a folder, no model")
    else:
        register(client, model, track.register, track.alias)


def measured(root: Path, params: Mapping[str, Any], *, again_if_busy: bool = False) -> Timings:
    """Latencies of the networks in `root`, measured or remembered as by `measured_once`."""
    folders = {name: root / folder for name, folder in FOLDERS.items()}
    options = options_from(EvaluateOptions, params["evaluate"], "evaluate")
    fabric = options_from(FabricOptions, params["fabric"], "fabric")
    allow = [params["model"]["_target_"]]
    data = root / "out/data"
    return measured_once(folders, data, options, fabric, again_if_busy=again_if_busy, allow=allow)


def lock_hash(root: Path) -> str:
    """Names a result: hash of dvc.lock, less the two stages that jobs run without."""
    path = root / "dvc.lock"
    if not path.is_file():  # stages run by hand, one by one
        return "none"
    # By libyaml: PyYAML's own parser takes as long as all else that a cached job is tracked by.
    stages = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["stages"]
    chosen = {name: s for name, s in stages.items() if name not in ("configure", "track")}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


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
    run_id = live.run_id if live else _new_run(client, experiment, root)
    with _marked_if_failed(client, run_id):
        plan, timings = load_plan(root / "out/plan.json"), measured(root, params)
        kept = plan.expected.planned.params / plan.expected.dense.params
        layers = plan.factorized.values()
        # A layer that is narrowed and then factorized has two methods.
        methods = list(dict.fromkeys(m for layer in layers for m in methods_in(layer.method)))
        client.update_run(run_id, name=run_name(params, methods or [DENSE], kept))
        told = {NOTE: description(root, timings, plan)}
        for key, value in {**tags, **told, **_provenance()}.items():
            client.set_tag(run_id, key, value)
        log_params(client, run_id, params)
        _log_metrics(client, run_id, figures(root, timings, plan))
        for stage, folder in (("baseline", "baseline"), ("fine_tune", "fine_tuned")):
            if live is None or stage not in live.stages:
                _log_curve(client, run_id, stage, root / "out" / folder)
        log_dataset(client, run_id, root)
        write_page(root)
        log_artifacts(client, run_id, root)
        _finish(client, run_id, root)
    return run_id


def _new_run(client: MlflowClient, experiment: str, root: Path) -> str:
    """A run that began as long ago as its stages took, those from the cache too."""
    started = time.time() - sum(durations(root).values())
    return str(client.create_run(experiment, start_time=int(1000 * started)).info.run_id)


def _finish(client: MlflowClient, run_id: str, root: Path) -> None:
    """Ends a run that lasted as long as its stages, at least: a live one began with a training."""
    started = client.get_run(run_id).info.start_time
    took = int(1000 * sum(durations(root).values())) + 1
    client.set_terminated(run_id, "FINISHED", max(int(1000 * time.time()), started + took))


@contextmanager
def _marked_if_failed(client: MlflowClient, run_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        close_failed(client, run_id, str(error))
        raise


def _provenance() -> dict[str, str]:
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
        (f"{stage}/{name}", float(value), now, point.step)
        for point in curve.points
        for name, value in values_at(point).items()
    ]
    log_points(client, run_id, points)
