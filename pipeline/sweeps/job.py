"""One job, single or of a sweep: configuration → workspace → DVC → one MLflow run → objectives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pipeline.config.compose import to_params
from pipeline.config.pins import pin
from pipeline.config.preflight import check_runnable
from pipeline.lowrank.errors import LowRankError
from pipeline.reporting.objectives import read_objectives
from pipeline.reporting.sweep.record import read_record
from pipeline.reporting.sweep.status import (
    DONE,
    FAILED,
    LOG,
    RUNNING,
    STOPPED,
    JobStatus,
    read_status,
    write_status,
)
from pipeline.sweeps.record import STOP
from pipeline.sweeps.workspace import StoppedError, make_workspace, reproduce
from pipeline.tracking.store import PARENT, track_options


@dataclass(frozen=True)
class Job:
    """Where a job runs. `sweep` is the sweep's folder, None for a single run."""

    root: Path
    workspace: Path
    number: int
    overrides: tuple[str, ...]
    sweep: Path | None

    @classmethod
    def current(cls, root: Path) -> Job:
        """The job that Hydra is running in this process."""
        hydra = HydraConfig.get()
        sweep = Path(hydra.sweep.dir).absolute() if hydra.mode is RunMode.MULTIRUN else None
        return cls(
            root,
            Path(hydra.runtime.output_dir),
            int(hydra.job.num) if sweep else 0,
            tuple(hydra.overrides.task),
            sweep,
        )


def run_job(config: DictConfig, job: Job) -> dict[str, float]:
    """Runs the job and returns its objectives by name.

    Raises LowRankError (also noted in the job's status.json) when it fails.
    """
    with _noted(job):
        params = pin(to_params(config), Path(HydraConfig.get().runtime.cwd))
        check_runnable(params)
        parent = _enter(job)
        make_workspace(job.root, job.workspace, params)
        with _live_run_ended(job, params):
            if job.sweep is None:
                reproduce(job.root, job.workspace)
                values = _finish(job, config, params, parent)
            else:
                log = job.workspace / LOG
                reproduce(job.root, job.workspace, log=log, stop=job.sweep / STOP)
                with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
                    values = _finish(job, config, params, parent)
    return values


def plan_job(config: DictConfig, job: Job) -> Path:
    """Runs the job as far as its plan, and returns the plan's file; nothing goes to MLflow.

    Raises LowRankError (also noted in the job's status.json) when it fails.
    """
    with _noted(job):
        params = pin(to_params(config), Path(HydraConfig.get().runtime.cwd))
        check_runnable(params)
        params["track"]["live"] = False
        _enter(job)
        make_workspace(job.root, job.workspace, params)
        reproduce(job.root, job.workspace, until="rank-select")
    return job.workspace / "out/plan.json"


def _enter(job: Job) -> str | None:
    """Sets what this process and its children read from the environment; the sweep's run."""
    os.environ["LOWRANK_ROOT"] = str(job.root)
    os.environ["LOWRANK_SCRATCH"] = str(job.root / ".scratch")
    os.environ.pop(PARENT, None)
    parent = read_record(job.sweep).parent_run_id if job.sweep else None
    if parent:
        os.environ[PARENT] = parent
    return parent


def _finish(
    job: Job, config: DictConfig, params: dict[str, Any], parent: str | None
) -> dict[str, float]:
    # MLflow and torch: seconds of import, not needed by a job that fails.
    from pipeline.reporting.run.ending import print_ending
    from pipeline.reporting.run.measures import measures
    from pipeline.reporting.run.metrics import FILE as METRICS
    from pipeline.reporting.run.metrics import read_metrics
    from pipeline.reporting.run.summary import print_summary
    from pipeline.reporting.run.timings import find_timings, quiet_latency_ms
    from pipeline.tracking.run import measured, track_run
    from pipeline.tracking.sweep import link_to_sweep

    run_id, name = track_run(job.workspace, params)
    if parent:
        link_to_sweep(track_options(params), run_id, parent, job.number)
    print_summary(job.workspace)
    print_ending(job.workspace, f"{run_id} ({name.experiment})")
    metrics = read_metrics(job.workspace / "reports" / METRICS)
    figures = metrics.fine_tuned.figures()
    first = measures(metrics.dense.scores, metrics.measures)[0]
    names = [first.name] if config.objectives is None else list(config.objectives)
    if "latency_ms" in names:
        timings = measured(job.workspace, params, again_if_busy=True)
        figures |= {"latency_ms": quiet_latency_ms(timings)}
    values = read_objectives(names, figures)
    status = replace(
        read_status(job.workspace),
        run_id=run_id,
        objectives=values,
        # Found on the job's machine only, which need not be the one that compares.
        timings=find_timings(job.workspace),
    )
    write_status(job.workspace, status)
    return values


@contextmanager
def _noted(job: Job) -> Iterator[None]:
    """The job's status.json from its beginning to its end, however it ends."""
    job.workspace.mkdir(parents=True, exist_ok=True)
    begun = JobStatus(
        job=job.number,
        overrides=job.overrides,
        state=RUNNING,
        started=time.time(),
        host=socket.gethostname(),
        pid=os.getpid(),
        log=LOG if job.sweep else None,
    )
    write_status(job.workspace, begun)
    state, error = STOPPED, None
    try:
        if job.sweep and (job.sweep / STOP).exists():  # it waited in a queue meanwhile
            raise StoppedError("stopped with its sweep")
        yield
        state = DONE
    except StoppedError as reason:
        error = str(reason)
        raise
    except Exception as reason:
        state, error = FAILED, str(reason)
        raise
    finally:
        ended = replace(
            read_status(job.workspace), state=state, stage=None, error=error, ended=time.time()
        )
        write_status(job.workspace, ended)


@contextmanager
def _live_run_ended(job: Job, params: dict[str, Any]) -> Iterator[None]:
    """MLflow knows of a job that failed while a network trained. A job that was stopped goes on
    with the same run when it is resumed."""
    from pipeline.tracking.live import end_live_run

    try:
        yield
    except StoppedError:
        raise
    except LowRankError as error:
        end_live_run(job.workspace, track_options(params), str(error))
        raise
