"""The contract of every method again, on convolutions that hypothesis draws."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.lowrank.forms.surgery import unfilled
from pipeline.lowrank.methods import METHODS, candidates_of
from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.lowrank.network.linalg import relative_error
from tests.lowrank.layer_kinds import Case, build, case_of, configured

METHODS_MADE = configured(cp_iterations=8, cp_rank_grid=2)
MODES = ["zeros", "reflect", "replicate", "circular"]


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """A seeded convolution of 1 to 3 axes with any stride, padding, dilation and groups that
    its input allows, in float64 or float32."""
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    sizes = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilation = [draw(st.integers(1, 2)) for _ in range(axes)]
    same = draw(st.booleans())
    module = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](
        groups * draw(st.integers(1, 6)),
        groups * draw(st.integers(1, 6)),
        tuple(sizes),
        stride=1 if same else tuple(draw(st.integers(1, 2)) for _ in range(axes)),
        padding="same" if same else tuple(draw(st.integers(0, size - 1)) for size in sizes),
        dilation=tuple(dilation),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(MODES)),
    ).to(draw(st.sampled_from([torch.float64, torch.float32])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    shape = [draw(st.integers(5, 8)) for _ in range(axes)]
    example = torch.randn(1, module.in_channels, *shape, generator=generator)
    return case_of(module, example.to(module.weight.dtype))


@pytest.mark.parametrize("name", list(METHODS))
@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(case=convolutions(), place=st.floats(0, 1))
def test_a_drawn_layer_and_rank_keep_the_contract(name: str, case: Case, place: float) -> None:
    candidates = candidates_of(
        case.target, {case.target.name: case.weight}, case.spectra, [name], METHODS_MADE
    )
    if not candidates:
        return
    candidate = candidates[round(place * (len(candidates) - 1))]
    method = METHODS_MADE[candidate.method]
    layer = build(case, method, candidate.ranks)
    assert (candidate.params, candidate.macs) == (
        count_params(layer),
        network_totals(layer, case.example).macs,
    )
    assert candidate.params < case.target.params and candidate.macs < case.target.macs

    eps = torch.finfo(case.weight.dtype).eps
    squared = relative_error(case.weight, layer.dense_weight()) ** 2
    norm = case.spectra.squared_norm
    predicted, certificate = (
        candidate.squared_error / norm,
        method.certify(case.spectra, candidate.ranks),
    )
    assert certificate.lower / norm - 50 * eps <= squared <= certificate.upper / norm + 50 * eps
    if candidate.error_kind == "exact":
        assert squared == pytest.approx(predicted, abs=50 * eps)
    else:
        assert squared <= predicted + 50 * eps

    output, dense = layer(case.example), layer.to_dense(case.module)(case.example)
    assert output.shape == case.module(case.example).shape
    assert torch.allclose(output, dense, atol=200 * eps * max(1.0, dense.abs().max().item()))

    other = unfilled("layer", case.module, method.form, candidate.ranks)
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(other(case.example), output)
