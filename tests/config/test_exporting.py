"""python -m pipeline.export: a network of a run in, folders that need no project out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from pipeline import lowrank as lr
from pipeline.config.exporting import run_export
from pipeline.data.files import load_facts, load_split
from pipeline.data.preprocessing import PREPROCESSING_JSON, save_preprocessing
from pipeline.lowrank.exports import standalone
from pipeline.lowrank.exports.record import Export
from pipeline.lowrank.typed import load_record
from pipeline.models.huggingface import load as load_transformer
from pipeline.models.huggingface import self_contained
from pipeline.models.resnet import ResNet
from pipeline.reporting.run.exporting import Exports, write_exports
from tests.imports import ROOT
from tests.models.transformers_case import write_gguf, write_model, write_tokenizer

SPEC = {"_target_": "pipeline.models.resnet.ResNet", "widths": [12], "blocks": [1], "hidden": 16}


@pytest.fixture
def workspace(digits: Path, tmp_path: Path) -> Path:
    """A run with a compressed network, its data and its preprocessing."""
    folder = tmp_path / "a run, of mine"
    out = folder / "out/fine_tuned"
    torch.manual_seed(0)
    net = ResNet(widths=[12], blocks=[1], hidden=16).eval()
    lr.compress_(net, lr.Energy(0.8), load_split(digits, "test").inputs[:1])
    lr.save(net, out, SPEC)
    (folder / "out/data").symlink_to(digits)
    save_preprocessing(out, load_facts(digits).preprocessing)
    return folder


def run(*arguments: str) -> list[str]:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    run_export(ROOT / "conf", arguments, console)
    return console.export_text().splitlines()


def test_a_graph_takes_examples_as_they_are_stored(workspace: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out, folder = tmp_path / "exports", workspace / "out/fine_tuned"
    lines = run(str(workspace), "to=torch,onnx", f"out={out}", "normalise=true")
    assert [line.partition(":")[0] for line in lines] == ["torch", "onnx"]
    split = load_split(workspace / "out/data", "test")
    expected = lr.load(folder)(split.inputs[:7])
    session = onnxruntime.InferenceSession(out / "onnx/model.onnx")
    assert [one.name for one in session.get_inputs()] == ["x"]
    stored = split.stored[:7]
    (found,) = session.run(None, {"x": stored.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)
    # The loader's own normalisation, and a dense network of the class.
    assert (out / "torch" / PREPROCESSING_JSON).read_bytes() == (
        folder / PREPROCESSING_JSON
    ).read_bytes()
    inputs = standalone.prepared(stored, out / "torch")
    loaded = standalone.load(ResNet(widths=[12], blocks=[1], hidden=16), out / "torch")
    assert torch.allclose(loaded(inputs), expected, atol=1e-5)
    record = json.loads((out / "torch/export.json").read_text())
    assert record["checked"] == "layers", "ResNet is a class of this project"


def test_exports_of_the_chain_hold_no_times_and_a_refused_one_says_why(workspace: Path) -> None:
    out = workspace / "out/exports"
    (out / "onnx").mkdir(parents=True)  # of an earlier configuration
    exports = write_exports(workspace, lr.load, ("huggingface", "torch"))
    assert "ResNet is no model of transformers" in exports.refused["huggingface"]
    assert load_record(out / "exports.json", Exports, "") == exports
    assert {path.name for path in out.iterdir()} == {"exports.json", "torch"}
    record = load_record(out / "torch/export.json", Export, "")
    assert record == exports.made["torch"]
    assert (record.load_s, record.latency_ms) == (None, None)
    assert (out / "torch" / PREPROCESSING_JSON).is_file()
    assert write_exports(workspace, lr.load, ()) == Exports({}, {})
    assert [path.name for path in out.iterdir()] == ["exports.json"]


@pytest.mark.exports
@pytest.mark.parametrize("normalise", ["true", "false"])
def test_8_bits_are_measured_on_the_test_split(
    workspace: Path, tmp_path: Path, normalise: str
) -> None:
    out = tmp_path / "out"
    options = (f"out={out}", f"normalise={normalise}")
    made, quality = run(str(workspace), "to=onnx", "int8=true", *options)
    assert "int8; network checked" in made
    found = re.search(r"onnx, int8: accuracy (\S+) → (\S+) on 360 test examples", quality)
    assert found is not None
    split = load_split(workspace / "out/data", "test")
    correct = lr.load(workspace / "out/fine_tuned")(split.inputs).argmax(1) == split.labels
    assert abs(float(found[1]) - correct.float().mean().item()) < 1e-3
    assert abs(float(found[2]) - float(found[1])) < 0.1
    record = json.loads((out / "export.json").read_text())
    assert 0 < record["rounding"] < 0.2 and record["largest_difference"] == 0


@pytest.mark.exports
@pytest.mark.parametrize("source", ["folder", "gguf"])
def test_a_language_model_of_a_run(source: str, tmp_path: Path) -> None:
    """Rebuilt from a folder or a GGUF file, with the tokenizer of its source."""
    import transformers

    place = tmp_path / "source"
    model = write_model(place, "causal_lm")
    name = place
    if source == "gguf":
        name = tmp_path / "model.gguf"
        write_gguf(name, model, write_tokenizer(place))
    spec: dict[str, Any] = {
        "_target_": "pipeline.models.huggingface.load",
        "name": str(name),
        "sha256": None,
        "task": "causal_lm",
        "dtype": "float32",
    }
    net = load_transformer(**{k: v for k, v in spec.items() if k != "_target_"})
    lr.compress_(net, lr.Energy(0.7), torch.randint(2, 300, (1, 8)))
    workspace, out = tmp_path / "run", tmp_path / "out"
    lr.save(net, workspace / "out/fine_tuned", self_contained(spec, net))
    (workspace / "params.yaml").write_text(yaml.safe_dump({"model": spec}))
    run(str(workspace), "to=huggingface", f"out={out}")
    again = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    assert again("the river")["input_ids"]
    assert (
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)"
        in (out / "README.md").read_text()
    )
    record = json.loads((out / "export.json").read_text())
    assert (record["checked"], record["largest_difference"]) == ("network", 0)
    config = json.loads((out / "config.json").read_text())
    assert config["use_cache"] and "quantization_config" not in config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wrkspace=x",), "wrkspace: unknown key; did you mean 'workspace'"),
        (("{run}", "out=x"), "to is not set"),
        (("{run}", "to=onxx", "out=x"), "to=onxx: unknown; did you mean 'onnx'"),
        (("{run}", "to=torch", "out=x", "form=plane"), "form=plane: unknown; did you mean 'plain'"),
        (("{empty}", "to=torch", "out=x"), r"empty: has no out/fine_tuned/network\.json; give the"),
        (
            ("{run}", "to=torch", "out=x", "network=compressed"),
            r"has no out/compressed/network\.json",
        ),
        (("{run}", "to=torch", "out={run}"), "is there already, and is no export"),
        (("{run}", "to=huggingface", "out=x"), "ResNet is no model of transformers"),
    ],
)
def test_errors_for_people(
    workspace: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"run": workspace, "empty": tmp_path / "empty"}
    quoted = [
        a.format(**{k: f"'{v}'" if "=" in a else v for k, v in places.items()}) for a in arguments
    ]
    with pytest.raises(lr.LowRankError, match=message) as info:
        run(*quoted)
    assert len(str(info.value).splitlines()) == 1
    assert not Path("x").exists()
