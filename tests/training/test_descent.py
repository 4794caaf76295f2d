"""Theorem 10: what the course module (docs/theorems.md) prints is false, what we use is true, and
what we measure is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from pipeline.training.curve import DescentPoint, SubsetPoint
from pipeline.training.descent import (
    DescentProbe,
    descent_bound,
    descent_points,
    measuring_steps,
    noise_term,
    printed_formula,
)
from pipeline.training.losses import Batch

Loss = Callable[[Tensor], Tensor]


def descend(loss: Loss, start: Tensor, rate: float, steps: int) -> tuple[list[float], list[float]]:
    """(L_0 … L_T, ‖∇L_0‖² … ‖∇L_{T−1}‖²) of full-gradient descent."""
    point, losses, norms = start.clone().requires_grad_(), [], []
    for _ in range(steps):
        value = loss(point)
        (gradient,) = torch.autograd.grad(value, point)
        losses.append(value.item())
        norms.append(gradient.square().sum().item())
        point = (point - rate * gradient).detach().requires_grad_()
    return [*losses, loss(point).item()], norms


def test_the_printed_formula_is_no_bound() -> None:
    """½x² from x = 1 with η = ½ for 5 steps: the loss stays positive, the formula is −0.75."""
    losses, norms = descend(lambda x: x.square().sum() / 2, torch.ones(1).double(), 0.5, 5)
    assert losses[0] == 0.5 and norms[0] == 1.0
    assert losses[-1] == pytest.approx(0.5 * 0.25**5)
    printed = printed_formula(losses[0], [0.5] * 5, norms[0])
    assert printed == -0.75
    assert losses[-1] > printed + 0.7
    bound = descent_bound(losses[0], [0.5] * 5, norms)
    assert printed < losses[-1] <= bound < losses[0]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_holds_on_quadratics(seed: int, fraction: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    rate = fraction / torch.linalg.matrix_norm(hessian, 2).item()
    start = torch.randn(8, generator=generator, dtype=torch.float64)
    losses, norms = descend(lambda x: x @ hessian @ x / 2, start, rate, 30)
    for step in range(31):
        bound = descent_bound(losses[0], [rate] * step, norms[:step])
        assert losses[step] <= bound + 1e-12 * losses[0]
    assert descent_bound(losses[0], [rate] * 30, norms) < 0.9 * losses[0]  # it says something


def test_the_bound_needs_a_rate_of_at_most_one_over_l() -> None:
    losses, norms = descend(lambda x: x.square().sum() / 2, torch.ones(1).double(), 1.5, 3)
    assert losses[-1] > descent_bound(losses[0], [1.5] * 3, norms)


def test_the_bound_holds_on_a_smooth_network() -> None:
    """A tanh network of 21 parameters; η = 1/L with L the largest norm of the Hessian that is
    met along the segments of the path, found by computing it there."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    targets = torch.sin(inputs.sum(1))
    start = 0.5 * torch.randn(21, generator=generator, dtype=torch.float64)

    def loss(weights: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ weights[:12].view(3, 4) + weights[12:16])
        return (hidden @ weights[16:20] + weights[20] - targets).square().mean()

    rate, steps = 0.1, 25
    losses, norms = descend(loss, start, rate, steps)
    smoothness, point = 0.0, start
    for _ in range(steps):
        step = rate * torch.autograd.functional.jacobian(loss, point)
        for part in (0.0, 0.5, 1.0):
            hessian = torch.autograd.functional.hessian(loss, point - part * step)
            smoothness = max(smoothness, torch.linalg.matrix_norm(hessian, 2).item())
        point = point - step
    assert rate <= 1 / smoothness
    for step in range(steps + 1):
        assert losses[step] <= descent_bound(losses[0], [rate] * step, norms[:step]) + 1e-12
    assert losses[-1] < 0.7 * losses[0]


def test_gradient_noise_adds_its_term_in_the_mean() -> None:
    """SGD on ½‖x‖² with noise of variance s² in each step: E[L_T] over many runs."""
    generator = torch.Generator().manual_seed(0)
    size, runs, rate, steps, deviation = 4, 20_000, 0.9, 6, 0.5
    point = torch.ones(runs, size, dtype=torch.float64)
    norms = []
    for _ in range(steps):
        norms.append(point.square().sum(1).mean().item())
        noise = deviation * torch.randn(runs, size, generator=generator, dtype=torch.float64)
        point = point - rate * (point + noise)
    reached = point.square().sum(1).mean().item() / 2
    rates, variance = [rate] * steps, size * deviation**2
    bound = descent_bound(size / 2, rates, norms)
    added = noise_term(rates, [1.0] * steps, [variance] * steps)
    assert added == pytest.approx(steps * rate**2 * variance / 2)
    assert bound < reached <= bound + added


def problem(seed: int = 0) -> tuple[nn.Module, list[Batch]]:
    """A linear model under the squared error: a quadratic whose Hessian is known."""
    torch.manual_seed(seed)
    model = nn.Linear(5, 1, bias=False).double()
    inputs = torch.randn(24, 5, dtype=torch.float64)
    labels = torch.randn(24, dtype=torch.float64)
    parts = torch.split(torch.arange(24), 8)
    return model, [Batch(inputs[part], labels[part], part) for part in parts]


def squared_error(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return (network(batch.inputs).squeeze(1) - batch.labels).square().mean() / 2


def test_the_probe_measures_loss_gradient_and_smoothness() -> None:
    model, batches = problem()
    inputs, labels = (torch.cat([batch[place] for batch in batches]) for place in (0, 1))
    found = DescentProbe(batches, squared_error, 0.05, {0}).measure(model)
    whole = Batch(inputs, labels, torch.arange(24))
    loss = squared_error(model, whole)
    (gradient,) = torch.autograd.grad(loss, model.weight)
    hessian = inputs.T @ inputs / 24
    assert found.subset_loss == pytest.approx(loss.item(), rel=1e-12)
    assert found.subset_gradient_squared_norm == pytest.approx(
        gradient.square().sum().item(), rel=1e-9
    )
    curvature = (hessian @ gradient.T).norm() / gradient.norm()
    assert found.smoothness == pytest.approx(curvature.item(), rel=1e-9)
    assert found.smoothness <= torch.linalg.matrix_norm(hessian, 2).item()
    assert model.weight.grad is None


def test_the_probe_leaves_a_network_and_the_generators_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1))
    model[0].weight.requires_grad_(False)
    model.double().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = DescentProbe(problem()[1], squared_error, 0.1, set())
    state = torch.get_rng_state()
    assert probe.measure(model) == probe.measure(model)  # the same dropout masks
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training
    probe.at(3, model)
    assert probe.points([], []) == []


def test_rows_follow_from_what_was_measured() -> None:
    measured = [SubsetPoint(0, 0.0, 2.0, 4.0, smoothness=1.0), SubsetPoint(2, 1.0, 1.0, 2.0, 3.0)]
    start, end = descent_points(measured, rates=[0.1, 0.2], batch_squared_norms=[5.0, 6.0])
    formulas = {"printed_false": 2.0, "descent": 2.0, "descent_sgd": 2.0}
    assert start == DescentPoint(**asdict(measured[0]), **formulas)
    assert end.printed_false == pytest.approx(2.0 - 0.3 * 4.0 / 2)
    between = (4.0 * 2.0) ** 0.5
    assert end.descent == pytest.approx(2.0 - (0.1 * 4.0 + 0.2 * between) / 2)
    variance = (5.0 + 6.0) / 2 - (4.0 + between) / 2
    added = (1.0 * 0.1**2 + 2.0 * 0.2**2) * variance / 2
    assert end.descent_sgd - end.descent == pytest.approx(added)


@pytest.mark.parametrize(
    ("points", "steps"), [(0, set()), (2, {0, 10}), (3, {0, 5, 10}), (99, {*range(11)})]
)
def test_points_are_spread_over_the_steps(points: int, steps: set[int]) -> None:
    assert measuring_steps(10, points) == steps
