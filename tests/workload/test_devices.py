"""Several processes train one network: all agree, and only the first one writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.workload.test_baseline import SPEC, TRAIN

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
from pathlib import Path
from pipeline.workload.baseline import make_baseline
from pipeline.workload.devices import FabricOptions, make_fabric

folder, data, spec, options = Path(sys.argv[1]), Path(sys.argv[2]), *map(json.loads, sys.argv[3:])
fabric = make_fabric(FabricOptions(devices=2, strategy="ddp", threads=1), seed=0)
told = []
curve = make_baseline(
    folder, data, spec, options, fabric=fabric, seed=0, on_step=lambda m, s: told.append(s)
)
result = {"world": fabric.world_size, "told": len(told), **curve.to_dict()}
(folder / f"rank{fabric.global_rank}.json").write_text(json.dumps(result))
"""


@pytest.mark.timeout(120)
def test_two_processes_train_one_network(tmp_path: Path, digits: Path) -> None:
    folder, script = tmp_path / "baseline", tmp_path / "script.py"
    folder.mkdir()
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), str(digits)]
    subprocess.run(
        [*command, json.dumps(SPEC), json.dumps(TRAIN | {"augment": "crop"})],
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
