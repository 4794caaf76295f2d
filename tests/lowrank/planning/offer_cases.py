"""Offers for policies: real spectra of seeded weights, made as a plan makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.spectra import analyze_weight
from pipeline.lowrank.methods import make_method, with_matrices
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.offers import make_offers
from pipeline.lowrank.planning.overrides import Override
from pipeline.lowrank.planning.policies import Offer

SHAPES = [(20, 30), (64, 16), (12, 8, 3, 3), (9, 9), (1, 40), (30, 1)]
METHODS = ("svd", "tucker2")
REST = 100  # cost of what is no target, in every unit


def seeded_weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for index, shape in enumerate(SHAPES):
        weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
        weight.flatten(1).mul_(torch.linspace(1, 0.1, weight.flatten(1).shape[1]) ** 3)
        weights[f"layer{index}"] = weight
    return weights


def analysis_of(weights: dict[str, Tensor]) -> Analysis:
    """Layers with a bias; every other one holds two bytes a parameter."""
    targets = {}
    for index, (name, weight) in enumerate(weights.items()):
        kind, positions = ("conv2d", 5) if weight.ndim == 4 else ("linear", 1)
        shape, size = tuple(weight.shape), 4 if index % 2 else 2
        targets[name] = Target(name, kind, shape, True, positions, positions, bytes_per_param=size)
    totals = Totals(
        REST + sum(t.params for t in targets.values()),
        REST + sum(t.macs for t in targets.values()),
        REST + sum(t.params * t.bytes_per_param for t in targets.values()),
    )
    spectra = {name: analyze_weight(weight) for name, weight in weights.items()}
    return Analysis("weight", totals, targets, spectra, {})


def offers_of(
    weights: dict[str, Tensor],
    methods: tuple[str, ...] = METHODS,
    overrides: dict[str, Override] | None = None,
) -> tuple[dict[str, Offer], Totals]:
    analysis = analysis_of(weights)
    options = {"cp_iterations": 3, "cp_rank_grid": 2}
    made = with_matrices([make_method(name, options) for name in ("svd", "tucker2", "cp")])
    offers = make_offers(analysis, weights, methods, made, "params", overrides)
    return offers, analysis.totals
