"""Networks take turns, and what is measured once is remembered by weights, options, machine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.evaluation import latency
from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.timings import Latency, load_timings
from pipeline.lowrank import Fixed, LowRankError, compress_
from pipeline.lowrank.forms.files import save
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.planning.timing import device
from pipeline.machine.devices import FabricOptions
from pipeline.models.resnet import ResNet

ONE_THREAD = FabricOptions(threads=1)
OPTIONS = EvaluateOptions(latency_batch_size=4, latency_repetitions=5, latency_warmup=2)


class Noted(nn.Module):
    """Notes its name in a list whenever it runs; matrices of `size` make it slow."""

    def __init__(self, name: str, calls: list[str], size: int) -> None:
        super().__init__()
        self.name, self.calls = name, calls
        self.matrix = nn.Parameter(torch.rand(size, size))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(self.name)
        return x + (self.matrix @ self.matrix).sum()


def test_networks_take_turns_and_the_larger_one_is_slower() -> None:
    calls: list[str] = []
    models = {name: Noted(name, calls, size) for name, size in (("dense", 700), ("small", 20))}
    threads = torch.get_num_threads()
    times = latency.interleaved_latencies(
        models, torch.zeros(1), repetitions=7, warmup=2, threads=1
    )
    assert calls == ["dense", "small"] * 9
    assert times["dense"].latency_ms > 3 * times["small"].latency_ms > 0
    assert times["dense"].iqr_ms >= 0
    assert torch.get_num_threads() == threads
    assert models["dense"].training


def test_the_median_is_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = iter([2_000_000, 4_000_000, 1_000_000_000])
    now = [0]

    def clock() -> int:
        return now[0]

    class Sleeper(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            now[0] += next(spans)
            return x

    monkeypatch.setattr("pipeline.evaluation.latency.time.perf_counter_ns", clock)
    times = latency.interleaved_latencies(
        {"only": Sleeper()}, torch.zeros(1), repetitions=3, warmup=0, threads=1
    )
    assert times["only"].latency_ms == pytest.approx(4.0)


@pytest.mark.parametrize(("own", "busy"), [(0.99, False), (0.5, True)])
def test_a_thread_that_waits_for_a_processor_tells_of_a_busy_machine(
    own: float, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steady load, which no spread of the times tells of."""
    now = [0.0]

    class Sleeper(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            now[0] += 1e6
            return x

    clocks = "pipeline.evaluation.latency.time."
    monkeypatch.setattr(f"{clocks}perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(f"{clocks}thread_time_ns", lambda: own * now[0])
    times = latency.interleaved_latencies(
        {"only": Sleeper()}, torch.zeros(1), repetitions=9, warmup=1, threads=1
    )
    assert times["only"] == Latency(1.0, 0.0, pytest.approx(own))
    assert times["only"].busy is busy


def test_what_a_busy_machine_spoilt_is_measured_again_on_request(
    networks: dict[str, Path], digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.3, 0.99])

    def timed(runs: dict[tuple[str, str], nn.Module], *_: Any, **__: Any) -> Any:
        share = next(shares)
        return {run: Latency(1.0, 0.0, share) for run in runs}

    monkeypatch.setattr(latency, "interleaved_latencies", timed)
    once = partial(latency.measured_once, networks, digits, OPTIONS, fabric=ONE_THREAD)
    assert once().busy
    assert once().busy
    assert not once(again_if_busy=True).busy
    assert not once(again_if_busy=True).busy
    assert not once().busy


def test_all_forms_are_one_function() -> None:
    """Pivots in 2-D convolutions, grouped too, and in a Linear."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 10, 3, groups=2)
    net = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(40, 7))
    assert list(latency.forms(nn.Linear(2, 2))) == ["as stored"]
    assert list(latency.forms(net)) == ["as stored", "channels last"]
    x = torch.randn(3, 6, 4, 4)
    compressed = compress_(net, Fixed({"0": (3, 2), "3": (4,)}), x[:1]).network
    found = latency.forms(compressed)
    assert list(found) == [
        "as stored",
        "multiplied out",
        "channels last",
        "multiplied out, channels last",
    ]
    with torch.no_grad():
        expected = compressed(x)
        for form in found.values():
            assert torch.allclose(form(x), expected, atol=1e-5)
    assert count_params(found["multiplied out"]) == count_params(compressed) + 2 * (9 + 4) + 16


def test_the_fastest_form_counts(
    networks: dict[str, Path], digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(runs: dict[tuple[str, str], nn.Module], *_: Any, **__: Any) -> Any:
        slow = {"dense": "channels last", "compressed": "as stored", "fine_tuned": "as stored"}
        return {run: Latency(2.0 if slow[run[0]] == run[1] else 1.0, 0.1) for run in runs}

    monkeypatch.setattr(latency, "interleaved_latencies", timed)
    found = latency.measured_once(networks, digits, OPTIONS, fabric=ONE_THREAD)
    assert found.forms == {
        "dense": "as stored",
        "compressed": "channels last",
        "fine_tuned": "channels last",
    }
    assert found.fine_tuned.latency_ms == 1.0


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path / "scratch"))
    for name, width in (("dense", 32), ("compressed", 8), ("fine_tuned", 8)):
        spec = {"widths": [width], "blocks": [1], "hidden": 8}
        target = "pipeline.models.resnet.ResNet"
        save(ResNet(**spec), tmp_path / name, {"_target_": target, **spec})  # type: ignore[arg-type]
    return {name: tmp_path / name for name in ("dense", "compressed", "fine_tuned")}


def test_measured_once(
    networks: dict[str, Path], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = latency.measured_once(networks, digits, OPTIONS, fabric=ONE_THREAD)
    assert first.batch_size == 4
    assert first.machine.threads == 1
    assert first.machine.torch == torch.__version__
    ratio = first.dense.latency_ms / first.fine_tuned.latency_ms
    assert first.speedup == pytest.approx(ratio)
    (stored,) = (tmp_path / "scratch/timings").iterdir()
    assert load_timings(stored) == first
    assert latency.measured_once(networks, digits, OPTIONS, fabric=ONE_THREAD) == first

    def files() -> int:
        return len(list((tmp_path / "scratch/timings").iterdir()))

    latency.measured_once(
        networks, digits, replace(OPTIONS, latency_repetitions=6), fabric=ONE_THREAD
    )
    assert files() == 2
    other = replace(OPTIONS, batch_size=17)  # not its business
    latency.measured_once(networks, digits, other, fabric=ONE_THREAD)
    assert files() == 2
    save(ResNet(), networks["fine_tuned"], {"_target_": "pipeline.models.resnet.ResNet"})
    latency.measured_once(networks, digits, OPTIONS, fabric=ONE_THREAD)
    assert files() == 3
    monkeypatch.setattr(device, "cpu_model", lambda: "abacus")
    assert (
        latency.measured_once(networks, digits, OPTIONS, fabric=ONE_THREAD).machine.cpu == "abacus"
    )
    assert files() == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latency_repetitions": 0}, "latency_repetitions=0: choose a number of at least 1"),
        ({"latency_warmup": -1}, "latency_warmup=-1: choose a number of at least 0"),
    ],
)
def test_impossible_options(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        replace(OPTIONS, **changed)
