"""Metrics: whitening turns every method's Frobenius theorems into theorems in the metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.lowrank.analysis.metrics import Metric, make_metric
from pipeline.lowrank.analysis.moments import Moments
from pipeline.lowrank.analysis.spectra import analyze_weight
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import METHODS, Method
from pipeline.lowrank.network.targets import Target
from tests.lowrank.layer_kinds import LAYER_KINDS, Case, LayerKind, configured, make_case

CONFIGURED = configured(cp_iterations=40, cp_rank_grid=3)
KINDS = [k for k in LAYER_KINDS if k.name in ("linear wide", "linear tall", "conv2d grouped")]


def moments_of(case: Case, *, rank: int | None = None) -> Moments:
    """Random moments for a target; inputs of the given rank where one is named."""
    groups = case.target.groups
    outputs, inputs = case.target.group_shape[:2]
    size = inputs * case.target.kernel_size
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(groups, size, rank or 2 * size, generator=generator, dtype=torch.float64)
    g = torch.randn(groups, outputs, 3 * outputs, generator=generator, dtype=torch.float64)
    return Moments(x @ x.mT / x.shape[-1], x.mean(-1), g @ g.mT / 100, x.shape[-1])


def unbiased(case: Case) -> Target:
    return replace(case.target, bias=False)


def squared_norm(metric: Metric, change: torch.Tensor) -> float:
    return metric.whiten(change).square().sum().item()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, id=f"{name}-{kind.name}")
        for name in METHODS
        for kind in KINDS
        if name in ("svd", "pivoted_svd") or (kind.is_kernel and name != "tucker")
    ],
)
def test_the_error_in_the_metric_is_the_one_predicted(name: str, kind: LayerKind) -> None:
    case = make_case(kind)
    metric = make_metric("fisher", moments_of(case), unbiased(case), 0.1)
    whitened = metric.whiten(case.weight)
    spectra = analyze_weight(whitened, case.target.groups)
    method = CONFIGURED[name]
    candidates = method.candidates(case.target, whitened, spectra)
    assert candidates
    for candidate in candidates[:: max(1, len(candidates) // 4)]:
        factors = method.factorize_in(metric, case.weight, spectra, candidate.ranks)
        contract = Method.factorize_in(method, metric, case.weight, spectra, candidate.ranks)
        torch.testing.assert_close(factors, contract, rtol=1e-7, atol=1e-9)
        error = squared_norm(metric, case.weight - method.form.reconstruct(factors))
        if candidate.error_kind == "exact":
            assert error == pytest.approx(candidate.squared_error, rel=1e-6, abs=1e-9)
        else:
            assert error <= candidate.squared_error * (1 + 1e-6)
        assert error > 0.0


def test_the_svd_in_a_metric_is_optimal_in_it() -> None:
    """No other factors of the rank do better: neither the plain SVD's nor random changes."""
    case = make_case(KINDS[0])
    metric = make_metric("input", moments_of(case), unbiased(case), 0.1)
    whitened = metric.whiten(case.weight)
    svd = CONFIGURED["svd"]
    factors = metric.unwhiten(svd.factorize(whitened, analyze_weight(whitened), (4,)))
    best = squared_norm(metric, case.weight - svd.form.reconstruct(factors))
    plain = svd.form.reconstruct(svd.factorize(case.weight, case.spectra, (4,)))
    assert best < squared_norm(metric, case.weight - plain)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first, last = (f + 1e-2 * torch.randn(f.shape, generator=generator) for f in factors)
        assert best <= squared_norm(metric, case.weight - svd.form.reconstruct([first, last]))


def test_fewer_tokens_than_inputs_are_no_problem() -> None:
    """With A of rank 3, rank 3 reproduces the layer on all inputs that were seen, and stays
    finite on the others."""
    case = make_case(KINDS[0])
    moments = moments_of(case, rank=3)
    metric = make_metric("input", moments, unbiased(case), 0.1)
    whitened = metric.whiten(case.weight)
    svd = CONFIGURED["svd"]
    factors = metric.unwhiten(svd.factorize(whitened, analyze_weight(whitened), (3,)))
    change = case.weight - svd.form.reconstruct(factors)
    seen = torch.einsum("on,nm,om->", change, moments.inputs[0], change)
    assert seen < 1e-5 * torch.einsum("on,nm,om->", case.weight, moments.inputs[0], case.weight)
    assert torch.linalg.norm(change) < 10 * torch.linalg.norm(case.weight)


def test_dead_channels_and_missing_gradients() -> None:
    case = make_case(KINDS[1])
    moments = moments_of(case)
    dead = Moments(torch.zeros_like(moments.inputs), moments.mean, moments.outputs, 1)
    assert torch.isfinite(make_metric("input", dead, case.target, 0.1).whiten(case.weight)).all()
    moments.inputs[:, 2], moments.inputs[:, :, 2] = 0.0, 0.0
    assert torch.isfinite(
        make_metric("fisher", moments, case.target, 0.1).whiten(case.weight)
    ).all()
    without = Moments(moments.inputs, moments.mean, None, 1)
    with pytest.raises(LowRankError, match="gradients"):
        make_metric("fisher", without, case.target, 0.1)


def test_a_bias_takes_up_the_mean_error() -> None:
    """With the update the squared output error is the one in the centred metric, and less than
    without; the minimum over all biases."""
    case = make_case(KINDS[0])
    generator = torch.Generator().manual_seed(5)
    inputs = case.target.shape[1]
    x = 2.0 + torch.randn(500, inputs, generator=generator, dtype=torch.float64)
    moments = Moments((x.T @ x / len(x))[None], x.mean(0)[None], None, len(x))
    metric = make_metric("input", moments, case.target, 0.1)
    whitened = metric.whiten(case.weight)
    svd = CONFIGURED["svd"]
    factors = metric.unwhiten(svd.factorize(whitened, analyze_weight(whitened), (4,)))
    change = case.weight - svd.form.reconstruct(factors)
    update = metric.bias_update(change)
    assert update is not None
    without = (x @ change.T).square().sum(1).mean().item()
    updated = (x @ change.T - update).square().sum(1).mean().item()
    assert updated == pytest.approx(squared_norm(metric, change), rel=1e-4)
    assert updated < 0.9 * without
    nearby = update + 1e-2 * torch.randn(update.shape, generator=generator)
    assert updated < (x @ change.T - nearby).square().sum(1).mean().item()
