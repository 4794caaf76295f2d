"""One contract for every format: an export is loaded in a process in which this project can't be
imported, and computes there what the network does. A new format is a new row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from pipeline import lowrank as lr
from pipeline.lowrank.exports import FORMATS, checking, get_format
from pipeline.lowrank.exports.calls import Call
from pipeline.lowrank.exports.record import EXPORT_JSON, Export
from pipeline.lowrank.exports.rounding import rounded_weights
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.typed import load_record
from tests.imports import ROOT
from tests.lowrank.exports.alone import alone
from tests.lowrank.exports.export_case import (
    OWN,
    fewer_heads_case,
    narrowed_case,
    narrower_experts_case,
    other_case,
    own_case,
    transformer_case,
)


@dataclass(frozen=True)
class Row:
    """A format; the files that it must have; and whether it keeps the network's bits."""

    to: str
    files: set[str]
    exact: bool
    form: str


ROWS = [
    Row("torch", {"model.safetensors", "lowrank.json", "lowrank_load.py"}, True, "pivoted"),
    Row("dense", {"model.safetensors"}, False, "dense"),
    Row("onnx", {"model.onnx"}, False, "plain"),
    Row("openvino", {"model.xml", "model.bin"}, False, "plain"),
    Row("executorch", {"model.pte"}, False, "plain"),
    Row("pt2", {"model.pt2"}, False, "plain"),
    Row(
        "huggingface", {"model.safetensors", "config.json", "modeling_lowrank.py"}, True, "pivoted"
    ),
]
GRAPHS = ("onnx", "openvino", "pt2")
KINDS = ("llama", "qwen2", "gpt2", "bert", "bert base", "t5", "vit")
NEEDS = {name: name for name in ("openvino", "executorch")} | {
    "onnx": "onnxruntime"
}  # of this project's extras
Elsewhere = Callable[..., None]


@pytest.fixture(scope="module")
def pythons() -> dict[tuple[str, ...], Path]:
    """Environments, made where the first test needs them."""
    return {}


@pytest.fixture
def elsewhere(
    pythons: dict[tuple[str, ...], Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Elsewhere:
    """Has exports opened where there are the libraries of the format alone, and further ones; torch
    and safetensors carry the examples."""

    def use(to: str, *further: str) -> None:
        needed = (*get_format(to).runtime, *further, "torch", "safetensors")
        if needed not in pythons:
            pythons[needed] = alone(tmp_path_factory.mktemp("alone") / "v", needed)
        here = SimpleNamespace(executable=str(pythons[needed]), path=[str(ROOT)])
        monkeypatch.setattr(checking, "sys", here)

    return use


def test_every_format_has_a_row() -> None:
    assert {row.to for row in ROWS} == set(FORMATS)
    assert all(get_format(name).name == name for name in FORMATS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.to)
def test_an_export_computes_what_the_network_does(row: Row, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(row.to, "torch"))
    if row.to == "huggingface":
        (net, example), builder = transformer_case("llama"), None
    else:
        (net, example), builder = own_case(), OWN
    before = {key: value.clone() for key, value in net.state_dict().items()}
    made = lr.export(net, tmp_path / "out", row.to, example=example, builder=builder)
    assert (made.checked, made.form, made.dtype) == ("network", row.form, "float32")
    assert made.relative_difference < 1e-5
    assert made.largest_difference == 0 or not row.exact
    assert row.files <= {path.name for path in (tmp_path / "out").iterdir()}
    assert load_record(tmp_path / "out" / EXPORT_JSON, Export, "") == made
    assert f"{made.parameters:,}" in (tmp_path / "out/README.md").read_text()
    assert made.parameters == count_params(net) or row.form != "pivoted"
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("__pycache__"))
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if str(ROOT).encode() in path.read_bytes()]
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.exports
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["huggingface", "dense", "torch"])
def test_every_architecture_in_every_folder(
    kind: str, to: str, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    model, example = transformer_case(kind)
    elsewhere(to, *(["transformers"] if to == "dense" else []))
    made = lr.export(model, tmp_path / "out", to, example=example)
    assert made.relative_difference < 1e-5
    if to == "huggingface":
        assert (made.checked, made.largest_difference) == ("network", 0)
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert config["model_type"] == f"lowrank_{model.config.model_type}"


@pytest.mark.exports
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "bert", "vit"])
@pytest.mark.parametrize("to", GRAPHS)
def test_every_architecture_as_a_graph_of_any_size(
    kind: str, to: str, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    """The fresh process runs a larger batch and a shorter text than the graph was made of."""
    pytest.importorskip(NEEDS.get(to, "torch"))
    model, example = transformer_case(kind)
    elsewhere(to)
    made = lr.export(model, tmp_path / "out", to, example=example)
    assert made.checked == "network" and made.relative_difference < 1e-4


@pytest.mark.exports
@pytest.mark.parametrize("to", GRAPHS)
def test_sizes_may_be_frozen(to: str, tmp_path: Path) -> None:
    """Only the example itself is run then: the graph takes no other size."""
    pytest.importorskip(NEEDS.get(to, "torch"))
    net, example = own_case()
    made = lr.export(net, tmp_path / "out", to, example=example, dynamic=False)
    assert made.relative_difference < 1e-5 and made.batch == 3


@pytest.mark.exports
@pytest.mark.parametrize("to", ["huggingface", "torch", "onnx"])
@pytest.mark.parametrize("form", ["plain", "dense"])
def test_every_form(form: str, to: str, tmp_path: Path) -> None:
    model, example = transformer_case("gpt2")
    made = lr.export(model, tmp_path / "out", to, example=example, form=form)  # type: ignore[arg-type]
    assert made.form == form and made.relative_difference < 1e-4


@pytest.mark.exports
@pytest.mark.parametrize("to", ["huggingface", "torch", "onnx"])
def test_layers_that_are_narrower(to: str, tmp_path: Path) -> None:
    model = narrowed_case()
    made = lr.export(model, tmp_path / "out", to)
    assert made.relative_difference < 1e-4
    assert made.largest_difference == 0 or to == "onnx"
    if to == "huggingface":
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert config["narrowed_layers"] and not config["low_rank_layers"]


@pytest.mark.exports
@pytest.mark.parametrize(
    ("kind", "to"), [("Mixtral", "huggingface"), ("GptOss", "huggingface"), ("Mixtral", "dense")]
)
def test_narrower_experts_run_by_the_code_of_transformers(
    kind: str, to: str, tmp_path: Path
) -> None:
    """Of one width in all layers it is a number of the configuration, which asks for no code."""
    import transformers as t

    model = narrower_experts_case(kind, 16, 16 if to == "dense" else 24)
    example = {"input_ids": torch.randint(2, 60, (2, 8))}
    made = lr.export(model, tmp_path / "out", to, example=example)
    assert made.largest_difference == 0
    own = {"trust_remote_code": True} if to == "huggingface" else {}
    loaded = t.AutoModelForCausalLM.from_pretrained(tmp_path / "out", **own).eval()
    assert torch.equal(loaded(**example).logits, model(**example).logits)
    texts = [
        loaded.generate(**example, use_cache=cached, max_new_tokens=6, do_sample=False)
        for cached in (True, False)
    ]
    assert torch.equal(*texts)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["intermediate_size"] == (16 if to == "dense" else 48)
    if to == "dense":
        assert type(loaded) is t.MixtralForCausalLM


@pytest.mark.exports
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_fewer_heads_generate_with_a_smaller_cache(kind: str, tmp_path: Path) -> None:
    import transformers as t

    model = fewer_heads_case(kind)
    assert lr.export(model, tmp_path / "out", "huggingface").largest_difference == 0
    loaded = t.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    ids = torch.randint(2, 300, (2, 6))
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    texts = [
        loaded.generate(ids, use_cache=cached, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for cached in (True, False)
    ]
    assert torch.equal(*texts)
    heads = {"llama": 1, "gpt2": 2}[kind]  # of two heads of keys and values, and of four
    for layer in loaded(ids, use_cache=True).past_key_values.layers:
        assert layer.keys.shape == layer.values.shape == (2, heads, 6, 8)


@pytest.mark.exports
@pytest.mark.parametrize("to", [*GRAPHS, "executorch", "dense", "torch"])
@pytest.mark.parametrize("kind", ["digits", "unet", "lstm", "attention", "experts"])
def test_other_networks(kind: str, to: str, tmp_path: Path, elsewhere: Elsewhere) -> None:
    """Modules that were opened have no factorized class, and leave for torch with `form=dense`."""
    pytest.importorskip(NEEDS.get(to, "torch"))
    net, example = other_case(kind)
    elsewhere(to)
    form = "dense" if to == "torch" and kind not in ("digits", "unet") else "auto"
    made = lr.export(net, tmp_path / "out", to, example=example, form=form)  # type: ignore[arg-type]
    assert made.relative_difference < 1e-4
    assert made.checked == "network" or to in ("dense", "torch")


@pytest.mark.exports
@pytest.mark.parametrize(
    ("to", "dtype"),
    [("huggingface", "bfloat16"), ("torch", "bfloat16"), ("dense", "float16"), ("onnx", "float16")],
)
def test_half_the_bytes(to: str, dtype: str, tmp_path: Path) -> None:
    model, example = transformer_case("llama")
    whole = lr.export(model, tmp_path / "whole", to, example=example)
    half = lr.export(model, tmp_path / "half", to, example=example, dtype=dtype)  # type: ignore[arg-type]
    assert half.dtype == dtype and half.bytes < 0.75 * whole.bytes
    assert half.rounding is not None and 0 < half.rounding < 0.1
    # Whole factors and products are made of rounded ones, and rounded once more.
    assert half.largest_difference == 0 or half.form in ("plain", "dense")
    assert half.relative_difference < 0.01


@pytest.mark.exports
def test_8_bits_of_a_graph(tmp_path: Path) -> None:
    net, example = own_case()
    calibration = [torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))]
    whole = lr.export(net, tmp_path / "whole", "onnx", example=example)
    small = lr.export(
        net, tmp_path / "small", "onnx", example=example, int8=True, calibration=calibration
    )
    assert (small.dtype, small.checked, small.largest_difference) == ("int8", "network", 0)
    assert small.bytes < whole.bytes
    assert small.rounding is not None and 0 < small.rounding < 0.1


@pytest.mark.exports
def test_8_bits_of_a_transformer_are_weighed_by_its_inputs(tmp_path: Path) -> None:
    """The file holds the numbers that were chosen, and they lose less than the nearest ones do;
    without examples, whole factors lose least."""
    pytest.importorskip("torchao")
    model, _ = transformer_case("llama")
    ids = torch.randint(2, 300, (32, 12), generator=torch.Generator().manual_seed(1))
    weighed = lr.export(
        model, tmp_path / "weighed", "huggingface", int8=True, form="pivoted", calibration=[ids]
    )
    numbers = rounded_weights(model, [Call((), {"input_ids": ids})])
    stored = load_file(tmp_path / "weighed/model.safetensors")
    found = [key for key in stored if key.endswith("qdata")]
    for key in found:
        name = key.removesuffix("._weight_qdata")
        assert torch.equal(stored[key], numbers[name].numbers), name
    assert len(found) >= 14
    auto = lr.export(model, tmp_path / "auto", "huggingface", int8=True)
    pivoted = lr.export(model, tmp_path / "pivoted", "huggingface", int8=True, form="pivoted")
    assert (auto.form, auto.dtype, auto.largest_difference) == ("plain", "int8", 0)
    assert auto.rounding is not None and pivoted.rounding is not None
    assert 0 < auto.rounding < pivoted.rounding
    # By how much is said layer by layer (test_rounding): random layers hardly pass it on.
    assert weighed.rounding is not None and weighed.rounding < pivoted.rounding
