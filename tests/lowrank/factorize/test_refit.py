"""Refit: layers take up the errors of those before them; blocks are walked, never guessed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import SVD, Budget, Interpolative, LowRankError, apply_, plan
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.factorize.drift import (
    corrected_weight,
    mean_change,
    measure_drift,
    measure_narrower,
)
from pipeline.lowrank.factorize.refit import refit_
from pipeline.lowrank.methods.interpolative import is_narrower
from pipeline.lowrank.network.blocks import BlockStates, find_blocks, find_walk, record_calls


class Residual(nn.Module):
    """A residual MLP block with a norm, as transformers stack them."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width, bias=bias)
        self.down = nn.Linear(2 * width, width, bias=bias)

    def forward(self, x: Tensor, scale: float = 1.0) -> tuple[Tensor]:
        return (x + scale * self.down(self.up(self.norm(x)).relu()),)


class Stack(nn.Module):
    def __init__(self, *, bias: bool = True, blocks: int = 12) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 24)
        self.blocks = nn.ModuleList(Residual(24, bias=bias) for _ in range(blocks))
        self.head = nn.Linear(24, 20)
        nn.init.normal_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            (x,) = block(x, scale=0.7)
        return self.head(x)


def make_cnn() -> nn.Module:
    def block(inputs: int, outputs: int, groups: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=groups == 1)
        return nn.Sequential(convolution, nn.ReLU())

    head = nn.Linear(24, 20)
    nn.init.normal_(head.weight)
    layers = [block(3, 16, 1), block(16, 16, 2), block(16, 24, 1), block(24, 24, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual, biases": (Stack, (12,)),
    "residual, no biases": (lambda: Stack(bias=False), (12,)),
    "cnn": (make_cnn, (3, 8, 8)),
}


def correlated(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Inputs with a decaying spectrum and a mean, which statistics can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(shape[0], shape[0], generator=torch.Generator().manual_seed(99))
    scale = torch.linspace(1.5, 0.1, shape[0])
    x = torch.randn(count, *shape, generator=generator).movedim(1, -1) * scale + 0.5
    return (x @ torch.linalg.qr(turn)[0]).movedim(-1, 1).contiguous()


@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_refit_network_is_closer_to_the_dense_one(network: str, metric: MetricName) -> None:
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    dense = make().eval()
    calibration = list(correlated(512, shape, 1).split(128))
    chosen = plan(
        dense,
        Budget(params=0.4),
        calibration=calibration,
        held_out=[],
        metric=metric,
        methods=[SVD()],
    )
    plain = apply_(copy.deepcopy(dense), chosen).network
    refit = copy.deepcopy(plain)
    assert chosen.analysis is not None
    reports = refit_(dense, refit, chosen, chosen.analysis, calibration, share=0.5)
    fresh = correlated(512, shape, 2)
    if metric == "fisher":
        errors = [Divergence(dense, [fresh]).of(m) for m in (plain, refit)]
    else:
        with torch.no_grad():
            errors = [float((m(fresh) - dense(fresh)).norm()) for m in (plain, refit)]
    assert errors[1] < 0.99 * errors[0]
    assert reports
    assert set(reports) <= set(chosen.factorized)
    assert all(r.correction is not None and r.correction >= 0 for r in reports.values())
    # The first factorized block reads what the dense network reads: nothing to correct.
    assert min(r.correction for r in reports.values()) < 1e-3  # type: ignore[type-var]


@pytest.mark.parametrize("methods", [(Interpolative(),), (SVD(), Interpolative())])
@pytest.mark.parametrize("network", NETWORKS)
def test_narrowed_layers_are_refit_too(
    network: str, methods: tuple[SVD | Interpolative, ...]
) -> None:
    """Those that make the channels, in closed form as all others; those that read them by the
    regression of the dense layer's outputs on the channels that are left."""
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    dense = make().eval()
    calibration = list(correlated(512, shape, 1).split(128))
    chosen = plan(dense, Budget(params=0.6), calibration=calibration, held_out=[], methods=methods)
    done = apply_(copy.deepcopy(dense), chosen)
    refit, analysis = copy.deepcopy(done.network), chosen.analysis
    assert analysis is not None
    reports = refit_(dense, refit, done.plan, analysis, calibration, share=0.5)
    divergence = Divergence(dense, [correlated(512, shape, 2)])
    assert divergence.of(refit) < 0.99 * divergence.of(done.network)
    narrow = {n for n, layer in chosen.factorized.items() if is_narrower(layer.method)}
    assert narrow
    assert narrow & set(reports)
    assert [tuple(p.shape) for p in refit.parameters()] == [
        tuple(p.shape) for p in done.network.parameters()
    ]
    x = correlated(8, shape, 3)
    torch.testing.assert_close(done.widened(refit)(x), refit(x), atol=1e-4, rtol=1e-4)


def test_fewer_inputs_are_regressed_on_exactly() -> None:
    """The whole step is the least-squares solution, also with a bias, which takes up the mean."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4000, 9, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(1, 4000, 6, generator=generator, dtype=torch.float64)
    given = x[..., :6] + 0.2 * x[..., 3:] + 0.1 * noise
    weight = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    start = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    drift = measure_narrower(x, given, weight, start)
    ones = torch.ones(4000, 1, dtype=torch.float64)
    wanted = x[0] @ weight.T
    best = torch.linalg.lstsq(given[0], wanted).solution.T
    found = corrected_weight(start, drift, 1.0, centred=False)
    torch.testing.assert_close(found, best, atol=5e-3, rtol=0)
    best = torch.linalg.lstsq(torch.cat([given[0], ones], 1), wanted).solution.T
    found = corrected_weight(start, drift, 1.0, centred=True)
    torch.testing.assert_close(found, best[:, :6], atol=5e-3, rtol=0)
    mean = mean_change(start, found, drift)
    torch.testing.assert_close(mean, best[:, 6], atol=5e-3, rtol=0)


def test_the_correction_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4000, 6, generator=generator, dtype=torch.float64)
    mixing = torch.eye(6) + 0.1 * torch.randn(6, 6, generator=generator)
    spoilt = (
        x + 0.2 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    ) @ mixing.double()
    weight = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    best = torch.linalg.lstsq(spoilt[0], x[0] @ weight.T).solution.T
    drift = measure_drift(x, spoilt)
    found = corrected_weight(weight, drift, 1.0, centred=False)
    torch.testing.assert_close(found, best, atol=2e-3, rtol=0)
    half = corrected_weight(weight, drift, 0.5, centred=False)
    torch.testing.assert_close(half, (weight + found) / 2)


def test_without_drift_nothing_changes() -> None:
    x = torch.randn(2, 50, 7)
    weight = torch.randn(6, 7, 1, 1)
    same = corrected_weight(weight, measure_drift(x, x), 1.0, centred=True)
    torch.testing.assert_close(same, weight.double())


@pytest.mark.parametrize("mean", [1.0, 10.0, 100.0, 1000.0])
def test_inputs_that_hardly_vary_around_a_large_mean_are_corrected(mean: float) -> None:
    """Their float32 sums have nothing left of the variance, which may come out below zero."""
    generator = torch.Generator().manual_seed(0)
    x = mean + 1e-3 * torch.randn(1, 500, 16, generator=generator)
    spoilt = x + 1e-4 * torch.randn(x.shape, generator=generator)
    weight = torch.randn(8, 16, generator=generator)
    found = corrected_weight(weight, measure_drift(x, spoilt), 1.0, centred=True)
    torch.testing.assert_close(found, weight.double(), rtol=0, atol=0.1)


def test_blocks_are_walked_as_the_network_runs_them() -> None:
    torch.manual_seed(0)
    for dense, shape in ((Stack().eval(), (12,)), (make_cnn().eval(), (3, 8, 8))):
        batch = torch.randn(4, *shape)
        names = [n for n, m in dense.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        blocks = find_blocks(dense, names, "refit.share=0")
        walk = BlockStates(dense, blocks, [batch], [record_calls(dense, blocks, batch, "")])
        for place in range(len(blocks)):
            walk.go_on(place)
        expected = dense(batch)
        found = dense.head(walk.states[0]) if isinstance(dense, Stack) else walk.states[0]
        torch.testing.assert_close(found, expected)


class Stages(nn.Module):
    """Lists of blocks beside one another, as the stages of a ResNet; with something `between`
    they are one walk no more."""

    def __init__(self, between: float = 0.0) -> None:
        super().__init__()
        self.between = between
        self.layer1 = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        self.layer2 = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(x)
        return self.layer2(x + self.between if self.between else x)


def test_stages_that_follow_one_another_are_one_walk() -> None:
    net, batch = Stages(), torch.randn(4, 6)
    names = [n for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    blocks, calls = find_walk(net, names, [batch], "")
    assert blocks == names
    walk = BlockStates(net, blocks, [batch], calls)
    for place in range(5):
        walk.go_on(place)
    assert torch.equal(walk.states[0], net(batch))
    assert find_walk(Stages(0.5), names, [batch], "")[0] == names[2:]


class Skipping(Stack):
    """The last block is given an earlier state, too."""

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.stem(x)
        for block in self.blocks[:-1]:
            (x,) = block(x)
        return self.head(self.blocks[-1](x + first)[0])


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_other_networks_are_refused() -> None:
    names = [f"blocks.{i}" for i in range(12)]
    with pytest.raises(LowRankError, match=r"blocks\.11 is not called just once.*refit\.share=0"):
        record_calls(Skipping(), names, torch.randn(2, 12), "refit.share=0")
    with pytest.raises(LowRankError, match=r"with a factorized layer in them; set refit\.share=0"):
        find_blocks(Alone(), ["layer"], "refit.share=0")
    net = Stack()
    chosen = plan(net, Budget(params=0.5), torch.randn(1, 12))
    assert chosen.analysis is not None
    with pytest.raises(LowRankError, match="give at least one batch"):
        refit_(net, copy.deepcopy(net), chosen, chosen.analysis, [], share=0.5)
    spoilt = [torch.full((4, 12), torch.nan)]
    with pytest.raises(LowRankError, match=r"blocks\.\d+\..*hold NaN or Inf"):
        refit_(net, copy.deepcopy(net), chosen, chosen.analysis, spoilt, share=0.5)
