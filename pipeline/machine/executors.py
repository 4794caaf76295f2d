"""Other processes and machines, which work on layers one by one: existing engines, unmodified, each
imported where it was chosen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.lowrank.network.executing import Answer, Executor
from pipeline.lowrank.typed import knob, options

Engine = Literal["none", "processes", "slurm", "dask", "ray"]
# {engine: (the package that it is, what pip installs)}
_PACKAGES = {
    "processes": ("joblib", "joblib"),
    "slurm": ("submitit", "'lowrank-pipeline[sweeps]'"),
    "dask": ("distributed", "'lowrank-pipeline[dask]'"),
    "ray": ("ray", "ray"),
}
_IDLE = 30.0  # seconds after which a process ends that gets no work, as where the stage was killed
# The engines' own errors where a process ended that had not done its job.
_LOST = {
    *("TerminatedWorkerError", "UncompletedJobError", "KilledWorker"),
    *("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError"),
}


@options
class ExecutorOptions:
    """Who computes spectra and factors, layer by layer. Changes no result."""

    engine: Engine = knob("none", help="none: the process of the stage itself")
    workers: int = knob(
        2, ge=1, help="processes, and dask and ray without an address: how many processes here"
    )
    address: str | None = knob(
        None, help="dask, ray: of a cluster that runs; null: one of this machine, for the stage"
    )
    cluster: Literal["slurm", "local"] = knob(
        "slurm", help="slurm: of submitit; local: processes of this machine, to try it"
    )
    partition: str | None = knob(None, help="slurm: of the jobs; null: the cluster's default")
    timeout_min: int = knob(240, ge=1, help="slurm: minutes that a layer may take")
    mem_gb: float = knob(16.0, gt=0, help="slurm: memory of a job, in GB")

    def __post_init__(self) -> None:
        if self.address is not None and self.engine not in ("dask", "ray"):
            raise LowRankError(
                f"executor.address={self.address}: executor.engine={self.engine} has none; leave "
                "it out, or choose executor=dask or executor=ray"
            )


def check_executor(chosen: ExecutorOptions, accelerator: str) -> None:
    """Raises LowRankError for an engine that is not installed or not here.

    accelerator: that of the stages, which must be the CPU where others compute.
    """
    if chosen.engine == "none":
        return
    package, installed_by = _PACKAGES[chosen.engine]
    if find_spec(package) is None:
        raise LowRankError(f"executor={chosen.engine} needs {package}: pip install {installed_by}")
    if accelerator != "cpu":
        raise LowRankError(
            f"executor={chosen.engine}: others compute on CPUs, and fabric.accelerator="
            f"{accelerator}; choose executor=none or fabric=cpu"
        )
    if (chosen.engine, chosen.cluster) == ("slurm", "slurm") and shutil.which("srun") is None:
        raise LowRankError(
            "executor=slurm: there is no srun here; start on a machine of the cluster, or try it "
            "with executor.cluster=local"
        )


@contextmanager
def executing(chosen: ExecutorOptions, folder: Path) -> Iterator[Executor | None]:
    """The executor that was chosen, for the block; None where this process computes alone.

    folder: for the jobs of Slurm, on a disk that all its machines see. What they leave there goes
        at the end, and stays for whoever looks for a reason where something failed.

    Raises LowRankError where the engine does not start, and where it loses a process.
    """
    if chosen.engine == "none":
        yield None
        return
    with ExitStack() as stack:
        try:
            executor = stack.enter_context(_ENGINES[chosen.engine](chosen, folder))
        except (OSError, RuntimeError, ValueError) as error:
            raise LowRankError(
                f"executor={chosen.engine}: does not start ({reason_of(error)}); correct the "
                "executor section, or choose executor=none"
            ) from error
        try:
            yield executor
        except Exception as error:
            if type(error).__name__ not in _LOST:
                raise
            raise LowRankError(
                f"executor={chosen.engine}: a process was lost while it worked on a layer "
                f"({reason_of(error)}), as where memory is short; give it more, or fewer "
                "executor.workers, and run it again"
            ) from error


@contextmanager
def _processes(chosen: ExecutorOptions, folder: Path) -> Iterator[Executor]:
    start = import_module("joblib.externals.loky").ProcessPoolExecutor
    pool = start(chosen.workers, timeout=_IDLE)
    try:
        yield pool
    finally:
        pool.shutdown(kill_workers=True)  # after an error nobody waits for the others


@contextmanager
def _slurm(chosen: ExecutorOptions, folder: Path) -> Iterator[Executor]:
    folder.mkdir(parents=True, exist_ok=True)
    jobs = tempfile.mkdtemp(dir=folder.absolute())
    executor = import_module("submitit").AutoExecutor(jobs, cluster=chosen.cluster)
    executor.update_parameters(
        name="lowrank",
        timeout_min=chosen.timeout_min,
        mem_gb=chosen.mem_gb,
        cpus_per_task=torch.get_num_threads(),
        slurm_partition=chosen.partition,
    )
    yield executor
    shutil.rmtree(jobs, ignore_errors=True)


@contextmanager
def _dask(chosen: ExecutorOptions, folder: Path) -> Iterator[Executor]:
    start = import_module("distributed").Client
    if chosen.address is None:
        workers = {"n_workers": chosen.workers, "threads_per_worker": 1}
        start = partial(start, **workers, dashboard_address=None)
    with start(chosen.address) as client:
        yield client.get_executor()


@contextmanager
def _ray(chosen: ExecutorOptions, folder: Path) -> Iterator[Executor]:
    ray = import_module("ray")
    if chosen.address is None:
        ray.init(num_cpus=chosen.workers, include_dashboard=False)
    else:
        ray.init(chosen.address)
    try:
        yield _Ray(ray)
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Ray:
    """Ray's tasks, which take jobs by another name."""

    ray: Any

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Answer:
        future: Answer = self.ray.remote(function).remote(*arguments).future()
        return future


_ENGINES: dict[str, Callable[[ExecutorOptions, Path], AbstractContextManager[Executor]]] = {
    "processes": _processes,
    "slurm": _slurm,
    "dask": _dask,
    "ray": _ray,
}
