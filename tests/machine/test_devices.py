"""Several processes train one network: all agree, as one process would, and only the first one
writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.lowrank.forms.files import save
from tests.training.test_baseline import REPAIR, SPEC, TRAIN, TRAINING

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from pipeline.training.baseline import make_baseline
from pipeline.training.options import BaselineOptions
from pipeline.machine.devices import FabricOptions, make_fabric

folder, data, spec, chosen = Path(sys.argv[1]), Path(sys.argv[2]), *map(json.loads, sys.argv[3:])
options = BaselineOptions(**chosen)
fabric = make_fabric(FabricOptions(devices=2, strategy="ddp", threads=1), seed=0)
told = []
curve = make_baseline(
    folder, data, spec, options, fabric=fabric, seed=0, on_step=lambda m, s: told.append(s)
)
result = {"world": fabric.world_size, "told": len(told), **asdict(curve)}
(folder / f"rank{fabric.global_rank}.json").write_text(json.dumps(result))
"""


@pytest.mark.timeout(300)
def test_two_processes_train_one_network(tmp_path: Path, digits: Path) -> None:
    folder, script = tmp_path / "baseline", tmp_path / "script.py"
    folder.mkdir()
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), str(digits)]
    subprocess.run(
        [*command, json.dumps(SPEC), json.dumps(asdict(TRAIN) | {"augment": "crop"})],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["world"] == second["world"] == 2
    assert first["epochs"] == second["epochs"]
    assert first["steps"] == second["steps"]
    assert first["epochs"][-1]["validation_loss"] < 0.9 * first["epochs"][0]["validation_loss"]
    assert (first["told"] > 0, second["told"]) == (True, 0)
    trained, initial = (load_file(folder / f"{name}.safetensors") for name in ("model", "init"))
    assert (trained["head.0.weight"] - initial["head.0.weight"]).norm() > 0.1


MLP = """
from torch import nn

class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""


def fine_tuned(folder: Path, data: Path, devices: int) -> tuple[dict[str, torch.Tensor], Any]:
    """Weights and curve after the fine-tune stage itself ran in `folder`."""
    (folder / "out").mkdir(parents=True)
    (folder / "out/data").symlink_to(data)
    (folder / "my_mlp.py").write_text(MLP)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10)
    )
    save(model, folder / "out/compressed", {"_target_": "my_mlp.Mlp"})
    strategy = "ddp" if devices > 1 else "auto"
    fabric = {"accelerator": "cpu", "devices": devices, "num_nodes": 1, "strategy": strategy}
    params = {
        "seed": 0,
        "fabric": {**fabric, "precision": "32-true", "threads": 1},
        "fine_tune": {
            **asdict(REPAIR),
            **TRAINING,
            "epochs": 2,
            "batch_size": 128,
            "augment": "crop",
            "descent_points": 0,
        },
        "model": {"_target_": "my_mlp.Mlp"},
        "track": {"live": False},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    subprocess.run(
        [sys.executable, "-m", "stages.fine_tune"],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
    )
    curve = json.loads((folder / "out/fine_tuned/curve.json").read_text())
    return load_file(folder / "out/fine_tuned/model.safetensors"), curve


@pytest.mark.timeout(300)
def test_two_processes_give_what_one_gives(tmp_path: Path, digits: Path) -> None:
    """Without batch statistics (each process has its own) a step on two shares of a batch is the
    step on the batch: only the order of float32 sums differs, 1e-7 a step."""
    one, one_curve = fine_tuned(tmp_path / "one", digits, 1)
    two, two_curve = fine_tuned(tmp_path / "two", digits, 2)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-4), name
    losses = [[e["validation_loss"] for e in c["epochs"]] for c in (one_curve, two_curve)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < 0.9 * losses[0][0]
    assert one_curve["best_epoch"] == two_curve["best_epoch"]
