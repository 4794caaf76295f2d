"""A network with narrower dimensions: saved, loaded, certified, and otherwise as it was."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank import LowRankError
from tests.lowrank.inner_cases import FOUND, InnerCase, Pair, named

CASES = pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
NARROWER = (lr.Interpolative(),)


def compressed(case: InnerCase, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, lr.Plan]:
    net, inputs = case.network(dtype), case.inputs(dtype=dtype)
    plan = lr.plan(
        net,
        lr.Budget(params=0.75, scope="targets"),
        calibration=list(inputs.split(16)),
        methods=NARROWER,
        contest_examples=0,
    )
    assert plan.widths
    lr.apply_(net, plan)
    return net, plan


@CASES
def test_saved_and_loaded_to_the_bit(case: InnerCase, tmp_path: Path) -> None:
    net, plan = compressed(case)
    inputs = case.inputs(dtype=torch.float32)
    lr.save(net, tmp_path)
    again = lr.load_(case.network(torch.float32), tmp_path)
    assert torch.equal(again(inputs), net(inputs))
    assert torch.equal(copy.deepcopy(net)(inputs), net(inputs))
    written = json.loads((tmp_path / "network.json").read_text())
    assert plan.narrowing is not None
    members = {m.layer for name in plan.widths for m in plan.narrowing.found[name]}
    assert set(written["narrowed"]) == members
    assert not written["layers"]


def test_the_written_sizes_are_those_of_the_layers(tmp_path: Path) -> None:
    net, plan = compressed(named("gated"))
    lr.save(net, tmp_path)
    width = plan.widths["down"]
    written = json.loads((tmp_path / "network.json").read_text())["narrowed"]
    assert written["up"] == {
        "sizes": {"out_features": width},
        "shapes": {"bias": [width], "weight": [width, 12]},
    }
    assert written["down"] == {
        "sizes": {"in_features": width},
        "shapes": {"weight": [12, width]},
    }
    assert isinstance(net.up, nn.Linear)
    assert type(net.up) is nn.Linear
    assert net.up.out_features == width


def test_a_folder_for_another_network_is_refused(tmp_path: Path) -> None:
    net, _ = compressed(named("mlp"))
    lr.save(net, tmp_path)
    path = tmp_path / "network.json"
    whole = json.loads(path.read_text())
    for key, value, words in (
        ("shapes", {"weight": [99, 6]}, r"its weight would have the shape \[99, 6\]"),
        ("shapes", {"weights": [3, 6]}, r"its weights would have"),
        ("sizes", {"training": 3}, "it has no size 'training'"),
    ):
        changed = copy.deepcopy(whole)
        changed["narrowed"]["0"][key] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(LowRankError, match=f"layer '0' cannot be narrowed: {words}"):
            lr.load_(named("mlp").network(torch.float32), tmp_path)


@pytest.mark.parametrize("name", ["mlp", "residual CNN", "inverted", "flattened image"])
def test_the_network_is_certified_in_the_width_that_it_had(name: str) -> None:
    case = named(name)
    dense, net, inputs = case.network(), case.network(), case.inputs()
    plan = lr.plan(net, lr.Budget(params=0.7), inputs[:1], methods=NARROWER, metric="weight")
    done = lr.apply_(net, plan)
    wide = done.widened(net)
    assert torch.allclose(wide(inputs), net(inputs), rtol=1e-9, atol=1e-12)
    assert [p.shape for p in wide.parameters()] == [p.shape for p in dense.parameters()]
    bounds = lr.certify(dense, wide, inputs[:8], list(done.layers))
    measured = (dense(inputs[:8]) - net(inputs[:8])).norm(dim=1)
    assert bounds.network.measured.max == pytest.approx(measured.max().item(), rel=1e-6)
    if bounds.network.certificate is not None:
        assert bounds.network.certificate.max >= measured.max().item() > 0
    assert bounds.network.certified == (name != "inverted")


def test_layers_of_other_sizes_are_not_certified_side_by_side() -> None:
    case = named("mlp")
    net, _ = compressed(case)
    with pytest.raises(LowRankError, match=r"layer '0' was narrowed.*widened"):
        lr.certify(case.network(), net, case.inputs(4), ["0", "2"])


def test_what_surrounds_the_layers_stays() -> None:
    case = named("residual CNN")
    net, inputs = case.network(torch.float32), case.inputs(dtype=torch.float32)
    net = net.to(memory_format=torch.channels_last).train()
    block, calls = net.get_submodule("blocks.1"), []
    block.conv1.weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    block.norm1.eval()  # type: ignore[union-attr,operator]
    handle = block.conv2.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr,operator]
    plan = lr.plan(net, lr.Budget(params=0.5), calibration=[inputs], methods=NARROWER)
    lr.apply_(net, plan)
    assert "blocks.1.conv2" in plan.widths
    conv, norm = block.conv1, block.norm1
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert not conv.weight.requires_grad
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert conv.training
    assert not norm.training
    assert norm.num_features == conv.out_channels == plan.widths["blocks.1.conv2"]
    calls.clear()
    net(inputs).sum().backward()
    assert calls == [1]
    handle.remove()
    net(inputs)
    assert calls == [1]
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_in_bfloat16() -> None:
    case = named("mlp")
    net, plan = compressed(case, torch.bfloat16)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert plan.expected.planned.bytes == 2 * plan.expected.planned.params


class Counts(Pair):
    """Works with as many hidden channels as it had when it was told to be strict."""

    strict = False

    def forward(self, x: Tensor) -> Tensor:
        assert not self.strict or self.first(x).shape[-1] == 8, "eight channels are wanted"
        return super().forward(x)


def test_a_network_that_fails_is_as_it_was() -> None:
    torch.manual_seed(0)
    net, inputs = Counts(torch.relu).eval(), torch.randn(32, 6)
    plan = lr.plan(net, lr.Budget(params=0.6), calibration=[inputs], methods=NARROWER)
    net.strict = True
    before, first = net(inputs), net.first
    with pytest.raises(LowRankError, match=r"layers 'first', 'second': with them .*eight channels"):
        lr.apply_(net, plan)
    assert net.first is first
    assert torch.equal(net(inputs), before)
