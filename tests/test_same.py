"""benchmarks.same, which tells whether a change changed any result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.same import same

LAYER = {"method": "svd", "ranks": [4]}


def workspace(folder: Path, *, rank: int = 4, bias: float = 0.0, loss: float = 0.5) -> Path:
    """A chain's files, as the stages up to evaluate leave them."""
    (folder / "out/compressed").mkdir(parents=True)
    (folder / "reports").mkdir()
    layers = {"stem": {**LAYER, "ranks": [rank]}, "head": LAYER}
    (folder / "out/plan.json").write_text(json.dumps({"format": 1, "layers": layers}))
    save_file(
        {"stem.weight": torch.full((2, 3), torch.nan), "stem.bias": torch.full((2,), bias)},
        folder / "out/compressed/model.safetensors",
    )
    (folder / "reports/metrics.json").write_text(json.dumps({"dense": {"loss": loss, "macs": 3}}))
    return folder


def test_the_same_is_called_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert same(workspace(tmp_path / "before"), workspace(tmp_path / "after"))
    assert capsys.readouterr().out.splitlines() == [
        "plan: 2 layers, all the same",
        "baseline: not compared, no out/baseline/model.safetensors in BEFORE and AFTER",
        "compressed: 2 tensors, all the same",
        "fine-tuned: not compared, no out/fine_tuned/model.safetensors in BEFORE and AFTER",
        "metrics: 2 values, all the same",
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rank": 5}, "  stem: svd [4] → svd [5]"),
        # equal as numbers, not as bits
        ({"bias": -0.0}, "  stem.bias: 2 of 2 numbers differ, by at most 0"),
        ({"loss": 0.5000000000000001}, "  dense.loss: 0.5 → 0.5000000000000001"),
    ],
    ids=["plan", "tensor", "metric"],
)
def test_the_smallest_difference_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, float], told: str
) -> None:
    after = workspace(tmp_path / "after", **changed)  # type: ignore[arg-type]
    assert not same(workspace(tmp_path / "before"), after)
    assert told in capsys.readouterr().out.splitlines()


def test_what_only_one_has_is_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = workspace(tmp_path / "before"), workspace(tmp_path / "after")
    (after / "reports/metrics.json").write_text(json.dumps({"dense": {"loss": 0.5}, "size": 1}))
    assert not same(before, after)
    out = capsys.readouterr().out.splitlines()
    assert {"  dense.macs: only in BEFORE", "  size: only in AFTER"} <= set(out)


def test_half_a_chain_is_compared_and_none_is_not_the_same(tmp_path: Path) -> None:
    before, after = workspace(tmp_path / "before"), workspace(tmp_path / "after")
    (after / "reports/metrics.json").unlink()
    assert same(before, after)
    (tmp_path / "empty").mkdir()
    assert not same(before, tmp_path / "empty")
