"""What exports are made of: constructors of layers, forms, calls of several sizes, differences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.exports import standalone
from pipeline.lowrank.exports.calls import calls_of
from pipeline.lowrank.exports.checking import difference
from pipeline.lowrank.exports.config_fields import narrower_config
from pipeline.lowrank.exports.converting import in_dtype, in_form
from pipeline.lowrank.exports.to_torch import LowRankFile, layers_of, narrowed_of
from pipeline.lowrank.forms.constructors import constructor_of
from pipeline.lowrank.forms.shards import WEIGHTS
from pipeline.lowrank.forms.weights import save_weights
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.typed import save_record
from tests.lowrank.exports.export_case import narrower_experts_case, own_case
from tests.lowrank.exports.own_network import OwnNet
from tests.lowrank.factorize.test_narrow import compressed as narrower
from tests.lowrank.forms.test_forms_contract import PAIRS, Row, drawn, filled, ranks_of
from tests.lowrank.inner_cases import FOUND, InnerCase, named
from tests.lowrank.layer_kinds import LayerKind, make_case


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_every_form_says_its_constructors(row: Row, kind: LayerKind) -> None:
    """Layers made by the loader alone, through JSON, are the same function to the bit, and answer
    for the dense layer's weight, bias and plain attributes."""
    case = make_case(kind, torch.float32)
    for ranks in ranks_of(row.form, case)[::2]:
        layer = filled(row.form, case, ranks, drawn(row.form, case, ranks)).eval()
        (told,) = layers_of(nn.Sequential(layer)).values()
        made = standalone.LowRank(**json.loads(json.dumps(vars(told)))).eval()
        made.load_state_dict(layer.state_dict())
        with torch.no_grad():
            assert torch.equal(made(case.example), layer(case.example))
            assert (made.weight.dtype, made.weight.shape) == (torch.float32, layer.weight.shape)
            if not isinstance(case.module, nn.modules.conv._ConvNd):
                assert torch.allclose(made.weight + 0, layer.weight + 0, atol=1e-4, rtol=1e-4)
        facts = {key: value for key, value in layer.facts.items() if key[0] != "_"}
        assert facts and {key: getattr(made, key) for key in facts} == facts
        assert (made.bias is None) == (layer.bias is None)


def test_what_torch_does_not_make_is_refused() -> None:
    class Wrapper(nn.Linear):
        pass

    with pytest.raises(lr.LowRankError, match=r"a Wrapper, .*merge adapters") as info:
        constructor_of(Wrapper(2, 2))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("form", ["pivoted", "plain", "dense"])
def test_forms_are_one_function(form: str) -> None:
    net, example = own_case()
    before = count_params(net)
    turned = in_form(net, form)
    expected, found = net(example), turned(example)
    assert all(torch.allclose(found[k], expected[k], atol=1e-5) for k in expected)
    assert count_params(net) == before, "the network itself is as it was"
    counts = {form: count_params(in_form(net, form)) for form in ("pivoted", "plain", "dense")}
    assert counts["pivoted"] < counts["plain"] < counts["dense"]
    factors = [m for m in turned.modules() if isinstance(m, lr.Factorized)]
    assert bool(factors) == (form != "dense")
    assert all(torch.isfinite(m.dense_weight()).all() for m in factors)


def test_layers_that_are_no_smaller_in_whole_factors_are_multiplied_out() -> None:
    net = nn.Sequential(nn.Linear(20, 20))
    lr.compress_(net, lr.Fixed(14), torch.randn(1, 20), methods=[lr.PivotedSVD()])
    assert isinstance(net[0], lr.Factorized) and count_params(net) < 20 * 21
    assert type(in_form(net, "plain")[0]) is nn.Linear  # 14·(20 + 20) > 20·20


def test_the_loader_keeps_dtypes_ties_and_places(tmp_path: Path) -> None:
    net, example = own_case()
    half = in_dtype(net, torch.bfloat16)
    assert half is not net and net.head[0].weight.dtype == torch.float32  # type: ignore[index]
    save_weights(half, tmp_path / WEIGHTS)
    save_record(tmp_path / "lowrank.json", LowRankFile(1, layers_of(half), {}))
    loaded = standalone.load(OwnNet(24, 5), tmp_path)
    assert loaded.twice is loaded.again and isinstance(loaded.twice, standalone.LowRank)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    inputs = example.bfloat16()
    expected, found = half(inputs), loaded(inputs)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match="holds another network than this"):
        standalone.load(OwnNet(25, 5), tmp_path)


OWN = [case for case in FOUND if case.name != "packed"]


def test_packed_attention_with_fewer_heads_leaves_as_a_graph(tmp_path: Path) -> None:
    case = named("packed")
    net, plan = narrower(case)
    assert "0.self_attn.out_proj" in plan.widths
    with pytest.raises(lr.LowRankError, match=r"self_attn was opened, .*fewer heads.*to=pt2"):
        layers_of(net)
    inputs = case.inputs(3, torch.float32)
    lr.to_dense_(net)  # which packs no attention that has fewer heads
    loaded = torch.export.export(net, (inputs,)).module()
    assert torch.allclose(loaded(inputs), net(inputs), atol=1e-6)


@pytest.mark.parametrize("case", OWN, ids=lambda case: case.name)
def test_the_loader_makes_layers_narrower(case: InnerCase, tmp_path: Path) -> None:
    net, _ = narrower(case)
    save_weights(net, tmp_path / WEIGHTS)
    told = LowRankFile(1, layers_of(net), narrowed_of(net))
    save_record(tmp_path / "lowrank.json", told)
    assert told.narrowed
    inputs = case.inputs(3, torch.float32)
    loaded = standalone.load(case.network(torch.float32), tmp_path)
    assert torch.equal(loaded(inputs), net(inputs))
    with pytest.raises(lr.LowRankError, match=r"has fewer channels than the plain architecture"):
        lr.export(net, tmp_path / "out", "dense", example=inputs)


@pytest.mark.parametrize(
    ("kind", "widths", "fields"),
    [
        ("Mixtral", (16, 16), {"intermediate_size": 16}),
        ("Qwen3Moe", (8, 8), {"moe_intermediate_size": 8}),
        ("Mixtral", (16, 24), None),
        ("DeepseekV3", (8,), None),  # the number is that of its shared expert too, which is wider
    ],
)
def test_a_configuration_says_the_width_that_all_layers_have(
    kind: str, widths: tuple[int, ...], fields: dict[str, int] | None
) -> None:
    pytest.importorskip("transformers")
    model = narrower_experts_case(kind, *widths)
    config = model.config.to_dict()
    assert narrower_config(model) == fields
    assert model.config.to_dict() == config


def test_modules_that_were_opened_leave_as_graphs_or_dense() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.rnn(x)[0]
            return out

    torch.manual_seed(0)
    net, example = Net().eval(), torch.randn(5, 2, 16)
    lr.compress_(net, lr.Fixed(3), example)
    with pytest.raises(lr.LowRankError, match=r"rnn was opened, .*to=onnx, to=pt2.*form=dense"):
        layers_of(net)
    dense = in_form(net, "dense")
    assert type(dense.rnn) is nn.LSTM and not layers_of(dense)
    assert torch.allclose(dense(example), net(example), atol=1e-5)


def test_no_size_of_the_example_is_left_alone() -> None:
    ids = torch.arange(10).reshape(2, 5)
    calls = calls_of({"ids": ids, "values": torch.randn(2, 5)})
    shapes = [[tuple(x.shape) for x in call.tensors.values()] for call in calls]
    assert shapes == [[(2, 5), (2, 5)], [(3, 5), (3, 5)], [(2, 4), (2, 5)]]
    with pytest.raises(lr.LowRankError, match="example: 1 is a int; give a batch"):
        calls_of((ids, 3))


def test_differences() -> None:
    def of(*values: float) -> list[dict[str, Tensor]]:
        return [{"output": torch.tensor(values)}]

    found = difference(of(1.0, -4.0), of(1.5, -4.0))
    assert (found.absolute, found.relative) == (0.5, 0.125)
    same = of(float("-inf"), float("nan"), 2.0)
    assert difference(same, same).absolute == 0
    for other in (of(float("nan"), 1.0), of(1.0), [{"another": torch.zeros(2)}]):
        with pytest.raises(lr.LowRankError, match=r"NaN or Inf where|in the export, and"):
            difference(of(1.0, -4.0), other)
