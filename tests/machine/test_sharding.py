"""Two processes that share out a network's parameters repair it as one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.config.compose import compose_params
from pipeline.lowrank.errors import LowRankError
from pipeline.machine import sharding
from pipeline.machine.devices import FabricOptions, check_devices, make_fabric
from pipeline.training.fine_tune import fine_tune
from pipeline.training.loop import Loop
from pipeline.training.options import FineTuneOptions
from pipeline.training.resumption import Resumption
from tests.imports import ROOT

ALL = FineTuneOptions(
    epochs=2, batch_size=256, learning_rate=0.01, parameters="all", optimizer="adamw",
    descent_points=0,
)  # fmt: skip
ADAPTERS = FineTuneOptions(
    epochs=1, batch_size=256, learning_rate=0.01, parameters="adapters", adapter_rank=2,
    objective="distill", states_weight=0.5, descent_points=0,
)  # fmt: skip


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def repaired(folder: Path, name: str, data: Path, options: FineTuneOptions, fabric: Fabric) -> None:
    networks = folder / "compressed", folder / "dense"
    fine_tune(folder / name, *networks, data, options, allow=[Net], fabric=fabric, seed=1)


def in_two_processes(folder: Path, data: Path) -> None:
    """What each of the two does: a repair, the same stopped and taken up, and one of adapters."""
    fabric = make_fabric(FabricOptions(devices=2, strategy="fsdp", threads=1), seed=0)
    step, held = Loop._step, []

    def watched(self: Loop, number: int, batch: object) -> None:
        step(self, number, batch)  # type: ignore[arg-type]
        parts = [p.to_local().numel() for p in self.model.parameters()]  # type: ignore[operator]
        held.append(sum(parts) / sum(p.numel() for p in self.model.parameters()))
        if len(held) == stop:
            raise KeyboardInterrupt

    Loop._step = watched  # type: ignore[method-assign]
    Resumption.__init__.__defaults__ = (0.0,)  # type: ignore[misc] # kept after every step
    stop = 0
    repaired(folder, "two", data, ALL, fabric)
    whole = len(held)
    stop = whole + 4
    try:
        repaired(folder, "stopped", data, ALL, fabric)
    except KeyboardInterrupt:
        before = len(held)
        repaired(folder, "stopped", data, ALL, fabric)
    steps = len(held) - before
    repaired(folder, "two_adapters", data, ADAPTERS, fabric)
    told = {"held": held, "whole": whole, "steps": steps}
    (folder / f"rank{fabric.global_rank}.json").write_text(json.dumps(told))


SCRIPT = """
import sys
from pathlib import Path
from tests.machine.test_sharding import in_two_processes

in_two_processes(*map(Path, sys.argv[1:]))
"""


@pytest.mark.timeout(300)
def test_two_processes_repair_as_one_does(
    tmp_path: Path, digits: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path))
    torch.manual_seed(0)
    net, builder = Net(), {"_target_": "tests.machine.test_sharding.Net"}
    lr.save(net, tmp_path / "dense", builder)
    done = lr.compress_(net, lr.Fixed(ranks=0.5), torch.zeros(1, 1, 8, 8), methods=[lr.SVD()])
    lr.save(done.network, tmp_path / "compressed", builder)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(tmp_path), str(digits)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    for name, options in (("all", ALL), ("adapters", ADAPTERS)):
        repaired(tmp_path, f"one_{name}", digits, options, fabric)
    weights = {
        name: load_file(tmp_path / name / "model.safetensors")
        for name in ("one_all", "two", "stopped", "one_adapters", "two_adapters", "compressed")
    }
    for one, two, atol in (
        ("one_all", "two", 2e-4),
        ("one_adapters", "two_adapters", 2e-4),
        ("two", "stopped", 0.0),
    ):
        assert weights[one].keys() == weights[two].keys()
        for key, value in weights[one].items():
            assert torch.allclose(value, weights[two][key], rtol=0, atol=atol), (one, key)
    assert all((v - weights["compressed"][k]).norm() > 1e-3 for k, v in weights["two"].items())
    first, second = (json.loads((tmp_path / f"rank{n}.json").read_text()) for n in (0, 1))
    assert all(0.45 < one < 0.55 for one in [*first["held"], *second["held"]])
    assert first["steps"] == second["steps"] == first["whole"] - 4, "four were done before the stop"


def test_blocks_are_those_whose_parameters_are_their_own() -> None:
    net = Net()
    assert list(sharding._blocks(net)) == list(net.blocks)
    net.blocks[1].up.weight = net.blocks[2].up.weight
    assert list(sharding._blocks(net)) == [net.blocks[0]]
    nested = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]), nn.ReLU(), nn.Linear(2, 2)])
    assert list(sharding._blocks(nn.ModuleDict({"a": nested}))) == [nested[2]]


def test_one_process_has_nothing_to_share() -> None:
    with pytest.raises(
        LowRankError, match=r"strategy=fsdp: there is one process, .* fabric\.devices"
    ):
        check_devices(FabricOptions(strategy="fsdp"))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], r"fine_tune\.descent_points=5: not with .*; set it to 0"),
        (["fine_tune.optimizer=muon"], r"fine_tune\.optimizer=muon: not with .*; choose sgd"),
        (["fine_tune=none"], None),
        (["fine_tune.descent_points=0"], None),
    ],
)
def test_what_looks_at_whole_weights_is_refused(more: list[str], told: str | None) -> None:
    shared = ["fabric.strategy=fsdp", "fabric.devices=2"]
    chosen = [*shared, "baseline=pretrained", "data.normalise=none", *more]
    if told is None:
        assert compose_params(ROOT / "conf", chosen)["fabric"]["strategy"] == "fsdp"
        return
    with pytest.raises(LowRankError, match=told):
        compose_params(ROOT / "conf", chosen)
