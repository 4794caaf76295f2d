"""Networks that multiply by their weights with other functions than layers do are what the same
networks of layers are: targets, costs, moments, and what is factorized."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.collecting import collect_moments
from pipeline.lowrank.analysis.history import weight_spectra
from pipeline.lowrank.analysis.survey import survey
from pipeline.lowrank.forms.on_demand import OnDemand
from pipeline.lowrank.network.costs import network_totals


class Labels(nn.Module):
    """Two matrices with a dimension for the heads, as XLNet keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Parameter(torch.randn(8, 2, 6)), nn.Parameter(torch.randn(4, 2, 6))

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.tanh(torch.einsum("bh,hnd->bnd", x, self.into))
        return torch.einsum("bnd,hnd->bh", heads, self.out)


def labels() -> tuple[nn.Module, nn.Module]:
    model, layers = Labels(), [nn.Linear(8, 12, bias=False), nn.Linear(12, 4, bias=False)]
    with torch.no_grad():
        layers[0].weight.copy_(model.into.flatten(1).T)
        layers[1].weight.copy_(model.out.flatten(1))
    return model, nn.Sequential(layers[0], nn.Tanh(), layers[1])


class Gates(nn.Module):
    """A matrix and a bias for each of two heads, as RecurrentGemma's gates have them."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.at_once, self.head = at_once, nn.Linear(6, 4)
        self.weight, self.bias = nn.Parameter(torch.randn(2, 4, 3)), nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x, bias = x.view(-1, 2, 4).transpose(0, 1), self.bias[:, None]
        if self.at_once:
            made = torch.baddbmm(bias, x, self.weight)
        else:
            made = torch.bmm(x, self.weight) + bias
        result: Tensor = self.head(torch.tanh(made).transpose(0, 1).flatten(1))
        return result


def gates() -> tuple[nn.Module, nn.Module]:
    model, other = Gates(True), Gates(False)
    other.load_state_dict(model.state_dict())
    return model, other


class Attention(nn.Module):
    """Lends the weights of four layers to torch's attention, as WavLM does, or calls them."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([x, x.flip(1)])
        return (self._lent(x) if self.at_once else self._called(x)).mean(0)

    def _lent(self, x: Tensor) -> Tensor:
        biases = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        return functional.multi_head_attention_forward(
            x, x, x, 8, 2, torch.empty(0), biases, None, None, False, 0.0, self.out.weight,
            self.out.bias, self.training, use_separate_proj_weight=True,
            q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
        )[0]  # fmt: skip

    def _called(self, x: Tensor) -> Tensor:
        heads = [
            layer(x).unflatten(-1, (2, 4)).permute(1, 2, 0, 3) for layer in (self.q, self.k, self.v)
        ]
        made = functional.scaled_dot_product_attention(*heads)
        result: Tensor = self.out(made.permute(2, 0, 1, 3).flatten(2))
        return result


def attention() -> tuple[nn.Module, nn.Module]:
    model, other = Attention(True), Attention(False)
    other.load_state_dict(model.state_dict())
    return model, other


@dataclass(frozen=True)
class Case:
    """A network, and one that is known to be the same.

    make: gives both.
    names: {target of the one: that of the other}.
    """

    make: Callable[[], tuple[nn.Module, nn.Module]]
    names: Mapping[str, str]

    def made(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        model, known = self.make()
        return model.double().eval(), known.double().eval()


CASES = {
    "labels": Case(labels, {"stacks.into": "0", "stacks.out": "2"}),
    "attention": Case(attention, {name: name for name in ("q", "k", "v", "out")}),
    "gates": Case(gates, {"head": "head", "stacks.weight": "stacks.weight"}),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
X = torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def planned(model: nn.Module, metric: str, ranks: float) -> lr.Plan:
    return lr.plan(
        model, lr.Fixed(ranks), calibration=[X], held_out=[], metric=metric, methods=[lr.SVD()]  # type: ignore[arg-type]
    )  # fmt: skip


@EACH
def test_targets_costs_and_moments_are_those_of_the_known_network(case: Case) -> None:
    model, known = case.made()
    assert torch.allclose(model(X), known(X))
    found, expected = survey(model, X[:1]), survey(known, X[:1])
    assert list(found.targets) == list(case.names)
    assert found.totals == expected.totals
    here = collect_moments(model, [X], found.modules, gradients=True)
    there = collect_moments(known, [X], expected.modules, gradients=True)
    for name, other in case.names.items():
        assert found.targets[name].shape == expected.targets[other].shape
        assert found.targets[name].macs == expected.targets[other].macs
        assert torch.allclose(here[name].inputs, there[other].inputs)
        one, two = here[name].outputs, there[other].outputs
        assert one is not None and two is not None and torch.allclose(one, two)
    spectra = weight_spectra(model, list(found.targets), targets=found.targets)
    same = weight_spectra(known, list(expected.targets), targets=expected.targets)
    assert {case.names[n]: shape for n, shape in spectra.shapes.items()} == same.shapes


@EACH
@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
def test_the_factors_compute_what_those_of_the_known_network_do(
    case: Case, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, known = case.made()
    dense = model(X)
    done = lr.apply_(model, planned(model, metric, 0.5))
    same = lr.apply_(known, planned(known, metric, 0.5))
    assert set(done.layers) == set(case.names)
    assert done.totals == same.totals == network_totals(model, X[:1])
    assert torch.allclose(model(X), known(X))
    assert not torch.allclose(model(X), dense, atol=0.01)
    monkeypatch.setattr(OnDemand, "numbers", _refused)
    model.train()(X).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@EACH
def test_the_factors_are_saved_compressed_again_and_made_dense(case: Case, tmp_path: Path) -> None:
    model, known = case.made()
    empty, plan = copy.deepcopy(model), planned(model, "weight", 2)
    lr.save_plan(tmp_path / "plan.json", plan)
    lr.apply_(model, plan)
    found = model(X)
    lr.save(model, tmp_path)
    assert torch.equal(lr.load_(copy.deepcopy(empty), tmp_path)(X), found)
    remade = copy.deepcopy(empty)
    lr.apply_(remade, lr.load_plan(tmp_path / "plan.json"), example=X[:1])
    assert torch.equal(remade(X), found)
    lr.apply_(known, planned(known, "weight", 2))
    lr.apply_(known, planned(known, "input", 1))
    assert lr.apply_(remade, planned(model, "input", 1)).layers
    assert torch.allclose(remade(X), known(X))
    assert not torch.allclose(remade(X), found, atol=0.01)
    lr.to_dense_(model)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in empty.state_dict().items()}
    assert torch.allclose(model(X), found)


def _refused(_: OnDemand) -> Tensor:
    raise AssertionError("a weight was multiplied out")


class TwoMatrices(nn.Module):
    """Takes a parameter for one matrix, and for one matrix a head."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(8, 2, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.einsum("bh,hnd->bnd", x, self.weight)
        by_group = torch.bmm(heads.permute(2, 0, 1), self.weight)
        result: Tensor = self.head(by_group.sum(0))
        return result


def test_what_is_read_as_several_matrices_is_no_target() -> None:
    found = survey(TwoMatrices(), torch.randn(1, 8))
    assert list(found.targets) == ["head"]
    assert "is read by a product with another matrix" in found.skipped["weight"].reason
