"""Recurrent weights: their factors save parameters, and are multiplied out for torch's kernel but
where that takes longer than to use them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank.factorize.refit import refit_
from pipeline.lowrank.network.costs import network_totals
from pipeline.lowrank.network.opening.recurrence import OpenRecurrent

X = torch.randn(6, 10, 12, generator=torch.Generator().manual_seed(0)).double()


def net() -> nn.LSTM:
    torch.manual_seed(0)
    return nn.LSTM(12, 16, batch_first=True, bidirectional=True).double().eval()


def factorized(**ranks: int) -> nn.Module:
    model = net()
    chosen = lr.Fixed({**ranks})
    lr.apply_(model, lr.plan(model, chosen, X[:1], metric="weight", methods=[lr.SVD()]))
    return model


@pytest.mark.parametrize("length", [1, 10])
def test_steps_on_factors_and_factors_multiplied_out_are_one_function(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = factorized(hidden_l0=6, input_l0_reverse=4)
    assert isinstance(model, OpenRecurrent)
    stepped: list[int] = []
    walked = OpenRecurrent._walked
    monkeypatch.setattr(
        OpenRecurrent, "_walked", lambda *given: (stepped.append(1), walked(*given))[1]
    )
    x = X[:2, :length]
    found = model(x)[0]
    assert len(stepped) == (2 * length <= 6), "rank 6 is worth 6 positions"
    monkeypatch.setattr(OpenRecurrent, "_is_stepwise", lambda *_: length > 1)
    torch.testing.assert_close(model(x)[0], found, rtol=1e-12, atol=1e-12)


def test_a_graph_takes_batches_of_any_size() -> None:
    model = factorized(hidden_l0=6, input_l0=4)
    batch = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        graph = torch.export.export(model, (X[:2, :2],), dynamic_shapes=({0: batch},)).module()
        torch.testing.assert_close(graph(X[:, :2])[0], model(X[:, :2])[0])


def test_multiply_accumulates_are_those_that_run() -> None:
    dense = network_totals(net(), X[:1]).macs
    assert dense == 2 * 10 * 64 * (12 + 16), "input and recurrent weights, both directions"
    recurrent = factorized(hidden_l0=4, hidden_l0_reverse=4)
    assert network_totals(recurrent, X[:1]).macs == dense
    given = factorized(input_l0=3)
    assert network_totals(given, X[:1]).macs == dense - 10 * (64 * 12 - 3 * (64 + 12))


def test_a_budget_of_multiply_accumulates_takes_input_weights_alone() -> None:
    model = net()
    chosen = lr.plan(model, lr.Budget(macs=0.8), X[:1], metric="weight")
    assert {name.partition("_")[0] for name in chosen.factorized} == {"input"}
    assert {"hidden_l0", "hidden_l0_reverse"} <= set(chosen.layers)


class Stacked(nn.Module):
    """Recurrent blocks one after the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.LSTM(12, 12, batch_first=True) for _ in range(2))
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)[0]
        found: torch.Tensor = self.head(x[:, -1])
        return found


def test_refit_corrects_input_weights_and_leaves_recurrent_ones_and_the_dense_network() -> None:
    dense = Stacked().double().eval()
    compressed = copy.deepcopy(dense)
    chosen = lr.plan(compressed, lr.Fixed(3), calibration=[X], metric="input", methods=[lr.SVD()])
    lr.apply_(compressed, chosen)
    analysis = chosen.analysis
    assert analysis is not None
    assert {"blocks.0.hidden_l0", "blocks.1.hidden_l0"} < set(chosen.factorized)
    reports = refit_(dense, compressed, chosen, analysis, [X], share=0.5)
    assert set(reports) == {"blocks.0.input_l0", "blocks.1.input_l0"}
    assert {type(block) for block in dense.blocks} == {nn.LSTM}
