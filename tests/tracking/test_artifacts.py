"""What a run of MLflow carries where MLflow cannot hold the network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.tracking.artifacts import log_model
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import open_client


class Undecided(nn.Module):
    """What it does depends on what it reads, which torch.export refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.flatten(1))
        return found if float(x.detach().sum()) > 0 else -found


def test_a_network_that_torch_cannot_export_is_logged_as_a_folder(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_ROOT", str(tmp_path))
    shutil.copytree(digits, tmp_path / "out/data")
    lr.save(Undecided().eval(), tmp_path / "out/fine_tuned", {"_target_": f"{__name__}.Undecided"})
    client, experiment = open_client(TrackOptions())
    run = client.create_run(experiment).info.run_id
    client.set_terminated(run, "FINISHED")
    log_model(client, run, tmp_path, [Undecided])
    assert "logged as a folder (network)" in capsys.readouterr().out
    assert client.get_run(run).info.status == "FINISHED"
    assert {Path(one.path).name for one in client.list_artifacts(run, "network")} >= {
        "model.safetensors",
        "network.json",
    }
