"""Spectra by an executor are those of one process, to the bit."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from torch import nn

import pipeline.lowrank as lr
from pipeline.lowrank.network.executing import Executor, each


@pytest.fixture(scope="module")
def processes() -> Executor:
    executor: Executor = get_reusable_executor(max_workers=2)
    return executor


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3, groups=2), nn.Flatten(),
        nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10),
    )  # fmt: skip


def same(one: lr.Analysis, other: lr.Analysis) -> bool:
    pairs = [
        (view, other.spectra[name].views[key])
        for name, spectra in one.spectra.items()
        for key, view in spectra.views.items()
    ]
    return list(one.spectra) == list(other.spectra) and all(
        torch.equal(a.eigenvalues, b.eigenvalues) and torch.equal(a.basis, b.basis)
        for a, b in pairs
    )


@pytest.mark.parametrize("metric", ["weight", "input"])
def test_processes_give_the_same_bits(metric: str, processes: Executor) -> None:
    net, x = network(), torch.randn(20, 3, 6, 6)
    chosen = lr.AnalysisOptions(metric=metric)  # type: ignore[arg-type]
    alone = lr.analyze(net, calibration=[x], chosen=chosen)
    assert same(alone, lr.analyze(net, calibration=[x], chosen=chosen, executor=processes))
    assert len(set(each(processes, os.getpid, [()] * 4)) - {os.getpid()}) in (1, 2)


@pytest.mark.parametrize("metric", ["weight", "input"])
def test_numbers_pass_through_the_folder(
    metric: Literal["weight", "input"], processes: Executor, tmp_path: Path
) -> None:
    net, x = network(), [torch.randn(20, 3, 6, 6)]
    chosen = lr.AnalysisOptions(metric=metric)
    alone = lr.analyze(net, calibration=x, chosen=chosen)
    found = lr.analyze(net, calibration=x, chosen=chosen, spill=tmp_path, executor=processes)
    assert same(alone, found)
    assert len(list(tmp_path.glob("*-spectra.*"))) == 4
    assert len(list(tmp_path.glob("*-metric.*"))) == (4 if metric == "input" else 0)


def test_slurms_executor_and_threads_are_such(tmp_path: Path) -> None:
    """submitit's, with its cluster "debug", which runs jobs in this process."""
    submitit = pytest.importorskip("submitit")
    net, x = network(), torch.randn(1, 3, 6, 6)
    alone = lr.analyze(net, x)
    for executor in (submitit.AutoExecutor(tmp_path, cluster="debug"), ThreadPoolExecutor(2)):
        assert same(alone, lr.analyze(net, x, executor=executor))


def test_what_fails_elsewhere_fails_here(processes: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        list(each(processes, divmod, [(1, 1), (1, 0)]))


@pytest.mark.parametrize("count", [0, 1, 40])
def test_answers_come_in_the_order_of_the_jobs(count: int) -> None:
    with ThreadPoolExecutor(3) as executor:
        found = list(each(executor, pow, [(n, 2) for n in range(count)]))
    assert (
        found
        == [n * n for n in range(count)]
        == list(each(None, pow, [(n, 2) for n in range(count)]))
    )
