"""The chain from prepare to evaluate on sources of every kind: images, and a network from
elsewhere with data and preprocessing of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from pipeline.data.preprocessing import load_preprocessing
from pipeline.data.splits import Channels
from pipeline.lowrank import LowRankError
from tests.stages.test_task_chain import COMMON, drawn, run_chain
from tests.stages.test_transformer_chain import workspace

__all__ = ["workspace"]  # fixtures

# All that the chains have in common, but for the source.
COMMON = [line for line in COMMON if not line.startswith(("data=", "data.path=", "baseline"))]
TRAIN = ["baseline=train", "baseline.epochs=6", "baseline.batch_size=20", "baseline.snapshots=0"]
NETWORKS = ("baseline", "compressed", "fine_tuned")


def write_stripes(folder: Path, count: int = 260) -> None:
    """Images of stripes that lie or stand, in a folder each, of several sizes."""
    for number in range(count):
        lines = (drawn(9, 9, seed=number) * 20 + 60).clamp(0, 255).byte()
        lines[number % 3 :: 3] = 220
        place = folder / ("lie", "stand")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((lines.T if number % 2 else lines).contiguous().numpy())
        image.resize((18 + number % 5, 18)).save(place / f"{number}.png")


def test_a_folder_of_images_is_learned(workspace: Path) -> None:
    write_stripes(workspace / "stripes")
    source = ["data=image_folder", "data.path=stripes", "data.size=[8]", "data.colour=grey"]
    model = ["model=digits_resnet", "model.classes=2", "model.widths=[8,16]", "model.hidden=24"]
    metrics = run_chain(workspace, [*COMMON, *source, *TRAIN, *model, "fine_tune=full"])
    assert metrics["dense"]["accuracy"] > 0.9
    found = [load_preprocessing(workspace / "out" / name) for name in NETWORKS]
    assert found[0] == found[1] == found[2]
    assert (found[0].size, found[0].colour) == ((8, 8), "grey")
    assert set(found[0].channels) == {"inputs"}


def write_network(folder: Path) -> nn.Module:
    """A network that reads 0…255, trained on two blobs of numbers in a table."""
    torch.manual_seed(0)
    inputs, labels = drawn(300, 12), torch.arange(300) % 2
    inputs[:, :6] += 1.5 * labels[:, None]
    stored = inputs * 40 + 100
    lines = [",".join(f"{value:.4f}" for value in row) for row in stored.tolist()]
    names = ",".join(f"c{number}" for number in range(12))
    rows = [f"{line},{('no', 'yes')[label]}" for line, label in zip(lines, labels, strict=True)]
    (folder / "table.csv").write_text("\n".join([f"{names},label", *rows]))
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    save_file(net.state_dict(), folder / "net.safetensors")
    return net


def test_a_network_from_elsewhere_reads_a_table_as_it_was_trained(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_network(workspace)
    own = ["data=table", "data.path=table.csv", "model=custom", "fine_tune=full"]
    own += ["model._target_=tests.stages.nets.Small", "baseline=checkpoint"]
    own += ["baseline.weights=net.safetensors", "baseline.expected=0.97"]
    with pytest.raises(LowRankError, match=r"data\.normalise is not set"):
        run_chain(workspace, [*COMMON, *own])
    with pytest.raises(LowRankError, match=r"baseline.expected=0.97 .* another normalisation"):
        run_chain(workspace, [*COMMON, *own, "data.normalise=none"])
    constants = ["data.mean=[100]", "data.std=[40]"]
    metrics = run_chain(workspace, [*COMMON, *own, *constants])
    assert metrics["dense"]["accuracy"] > 0.9
    assert "warning: the test split was drawn from the data" in capsys.readouterr().err
    expected = {"inputs": Channels((100.0,) * 12, (40.0,) * 12)}
    for name in NETWORKS:
        assert load_preprocessing(workspace / "out" / name).channels == expected
