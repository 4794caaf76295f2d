"""The engines that compute layers elsewhere, and what is told where one is not here."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra, analyze_weight
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.executing import Executor, each
from pipeline.machine.executors import ExecutorOptions, check_executor, executing

# Those that run here, each as the chain calls it.
HERE: list[tuple[str, dict[str, Any], str]] = [
    ("processes", {"workers": 1}, "joblib"),
    ("slurm", {"cluster": "local", "mem_gb": 1}, "submitit"),
    ("dask", {"workers": 1}, "distributed"),
    ("ray", {"workers": 1}, "ray"),
]


def work(weight: Tensor) -> tuple[int, int, Spectra]:
    return os.getpid(), torch.get_num_threads(), analyze_weight(weight)


@pytest.mark.parametrize(("engine", "more", "package"), HERE, ids=str)
def test_every_engine_gives_the_same_bits_elsewhere(
    engine: Any, more: dict[str, Any], package: str, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    with executing(ExecutorOptions(engine=engine, **more), tmp_path) as executor:
        assert executor is not None
        ((there, threads, spectra),) = each(executor, work, [(weight,)])
    here, own = analyze_weight(weight).views["mode0"], spectra.views["mode0"]
    assert torch.equal(own.basis, here.basis) and torch.equal(own.eigenvalues, here.eigenvalues)
    assert there != os.getpid() and threads == torch.get_num_threads()
    assert not list(tmp_path.iterdir()), "what the jobs left there is gone"


def test_none_is_this_process(tmp_path: Path) -> None:
    with executing(ExecutorOptions(), tmp_path) as executor:
        assert executor is None


def killed() -> None:
    os.kill(os.getpid(), 9)


def test_a_process_that_is_lost_is_told_in_one_line(tmp_path: Path) -> None:
    told = r"^executor=processes: a process was lost .* run it again$"
    executors = executing(ExecutorOptions(engine="processes", workers=1), tmp_path)
    with pytest.raises(LowRankError, match=told), executors as executor:
        fail_and_die(executor)


def fail_and_die(executor: Executor | None) -> None:
    with pytest.raises(ZeroDivisionError):  # another error stays what it is
        list(each(executor, divmod, [(1, 0)]))
    list(each(executor, killed, [()]))


def test_what_failed_leaves_its_logs(tmp_path: Path) -> None:
    chosen = ExecutorOptions(engine="slurm", cluster="local")
    with pytest.raises(KeyError), executing(chosen, tmp_path):
        raise KeyError
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("processes", r"needs joblib: pip install joblib"),
        ("slurm", r"needs submitit: pip install 'lowrank-pipeline\[sweeps\]'"),
        ("dask", r"needs distributed: pip install 'lowrank-pipeline\[dask\]'"),
        ("ray", r"needs ray: pip install ray"),
    ],
)
def test_a_missing_package_is_named(
    engine: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.machine.executors.find_spec", lambda package: None)
    with pytest.raises(LowRankError, match=f"^executor={engine} {told}$"):
        check_executor(ExecutorOptions(engine=engine), "cpu")
    check_executor(ExecutorOptions(), "cpu")


def test_what_cannot_be_is_told_early(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        LowRankError, match=r"executor=processes: .* fabric\.accelerator=cuda; choose"
    ):
        check_executor(ExecutorOptions(engine="processes"), "cuda")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(LowRankError, match="executor=slurm: there is no srun here"):
        check_executor(ExecutorOptions(engine="slurm"), "cpu")
    with pytest.raises(LowRankError, match=r"executor\.address=x: executor\.engine=none has none"):
        ExecutorOptions(address="x")
