"""python -m pipeline.extract_lora: two networks in, an adapter folder and a table out."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config.extraction import run_extraction
from pipeline.lowrank import LowRankError
from pipeline.lowrank.forms.files import save
from pipeline.models.resnet import ResNet
from tests.imports import ROOT

SPEC = {"_target_": "pipeline.models.resnet.ResNet", "widths": [8], "blocks": [1], "hidden": 12}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """(base, tuned): folders of one network before and after a change of rank 2 in its head."""
    torch.manual_seed(0)
    base = ResNet(widths=[8], blocks=[1], hidden=12)
    tuned = copy.deepcopy(base)
    weight = tuned.get_parameter("head.2.weight")
    weight.data += torch.randn(10, 2) @ torch.randn(2, 12)
    tuned.get_parameter("head.2.bias").data += 1.0
    for name, network in (("base", base), ("tuned", tuned)):
        save(network, tmp_path / name, SPEC)
    return tmp_path / "base", tmp_path / "tuned"


def run(*overrides: str) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    run_extraction(ROOT / "conf", overrides, console)
    return console.export_text()


def test_folders_of_this_project(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    paths = (f"base={base}", f"tuned={tuned}", f"out={tmp_path / 'adapter'}")
    text = run(*paths, "rank_select=error", "rank_select.relative_error=1e-4")
    row = next(line for line in text.splitlines() if line.startswith("head.2"))
    assert row.split()[:4] == ["head.2", "2", "0.0000", "37"]  # 2·(10+12) of 120 parameters
    assert "44 parameters, 37 % of the weights they change" in text
    assert "left out as no weight of a Linear or an ungrouped convolution: head.2.bias" in text
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    prefix = "base_model.model.head.2.lora_"
    product = tensors[f"{prefix}B.weight"] @ tensors[f"{prefix}A.weight"]
    before, after = (load_file(p / "model.safetensors")["head.2.weight"] for p in pair)
    assert torch.allclose(product, after - before, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["task_type"] is None


def test_folders_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    name = "transformer.h.0.mlp.c_fc"
    model.get_parameter(f"{name}.weight").data += torch.randn(16, 1) @ torch.randn(1, 64)
    model.save_pretrained(tmp_path / "tuned")
    out = tmp_path / "adapter"
    run(f"base={tmp_path / 'base'}", f"tuned={tmp_path / 'tuned'}", f"out={out}")
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["task_type"], config["fan_in_fan_out"]) == ("CAUSAL_LM", True)
    shapes = [tuple(v.shape) for v in load_file(out / "adapter_model.safetensors").values()]
    assert sorted(shapes) == [(1, 16), (64, 1)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("bas=x",), "bas: unknown key; did you mean 'base'"),
        (("base=x",), "tuned is not set|out is not set"),
        (("rank_select=enrgy",), "rank_select=enrgy: unknown option; did you mean 'energy'"),
        (
            ("rank_select.enrgy=1",),
            r"rank_select\.enrgy: unknown key; did you mean 'rank_sel",
        ),
        (
            ("rank_select.energy=2", "base=a", "tuned=b", "out=c"),
            "energy=2: choose a number",
        ),
        (("base={absent}", "tuned={base}", "out=c"), "base=.*absent: no such file or folder"),
        (
            ("base={base}", "tuned={empty}", "out=c"),
            "holds neither config.json .* nor network",
        ),
        (("base={base}", "tuned={base}", "out=c"), "there is nothing to extract"),
        (("base={base}", "tuned={other}", "out=c"), "not of one architecture"),
        (("base={base}", "tuned={broken}", "out=c"), "transformers cannot load it"),
    ],
)
def test_errors_for_people(
    pair: tuple[Path, Path], tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{}")
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "other.safetensors")
    places = {
        "base": pair[0],
        "absent": tmp_path / "absent",
        "empty": tmp_path / "empty",
        "other": tmp_path / "other.safetensors",
        "broken": tmp_path / "broken",
    }
    with pytest.raises(LowRankError, match=message) as info:
        run(*(override.format(**places) for override in overrides))
    assert len(str(info.value).splitlines()) <= 2
    assert not Path("c").exists()
