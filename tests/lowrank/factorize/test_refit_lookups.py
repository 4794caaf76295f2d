"""A refit leaves embeddings alone: no layer can spoil the ids that they read."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pipeline.lowrank as lr
from pipeline.lowrank.factorize.refit import refit_


@pytest.mark.parametrize("excluded", [(), ("2", "4")])
def test_a_factorized_embedding_stays_and_the_layers_after_it_are_refit(
    excluded: tuple[str, ...],
) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Embedding(40, 16), nn.Flatten(), nn.Linear(80, 32), nn.ReLU(), nn.Linear(32, 10)
    ).eval()
    read = [torch.randint(40, (60, 5)) for _ in range(2)]
    made = lr.plan(
        dense,
        lr.Budget(params=0.9 if excluded else 0.5),
        calibration=read,
        held_out=[],
        metric="input",
        exclude=excluded,
        overrides={"0": lr.Override(ranks=5)},
    )
    assert made.analysis is not None
    net = lr.apply_(copy.deepcopy(dense), made).network
    table = net[0].dense_weight()
    reports = refit_(dense, net, made, made.analysis, read, share=0.5)
    assert set(reports) == set(made.factorized) - {"0"} and "0" in made.factorized
    assert torch.equal(net[0].dense_weight(), table)
    assert torch.isfinite(net(read[0])).all()
