"""Networks that cannot be certified: the result says so and why, and still has their layers'
bounds."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank import LowRankError
from pipeline.lowrank.bounds import certify, layers, network
from pipeline.lowrank.bounds.norms import Norm
from tests.lowrank.bounds.test_network import disturbed, lively
from tests.lowrank.bounds.test_norms import gaussian


class Net(nn.Module):
    """A linear layer `first`, then `rest` of its output."""

    def __init__(self, rest: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.rest = rest
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.rest(self, self.first(x))


def attention(net: Any, x: Tensor) -> Tensor:
    return net.attention(x, x, x)[0]


def product(net: Any, x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


def written_again(net: Any, x: Tensor) -> Tensor:
    y = functional.relu(x.flatten(1), inplace=True)
    return y + x.flatten(1)  # x was changed through the view


def mixed(net: Any, x: Tensor) -> Tensor:
    return x.transpose(0, 1).transpose(0, 1)


REFUSED = [
    pytest.param(
        lambda: Net(attention, attention=nn.MultiheadAttention(4, 2, batch_first=True)),
        r"at 'attention': MultiheadAttention: .*not globally Lipschitz \(Kim et al\. 2021\)",
        id="attention module",
    ),
    pytest.param(
        lambda: Net(lambda net, x: functional.scaled_dot_product_attention(x, x, x)),
        r"scaled_dot_product_attention.*Kim et al\. 2021",
        id="attention function",
    ),
    pytest.param(
        lambda: Net(
            lambda net, x: net.encoder(x),
            encoder=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        ),
        r"TransformerEncoderLayer: dot-product attention",
        id="encoder",
    ),
    pytest.param(lambda: Net(product), r"multiplies activations with each other", id="product"),
    pytest.param(lambda: Net(lambda net, x: x * x.sigmoid()), r"mul", id="gate"),
    pytest.param(
        lambda: Net(lambda net, x: x if x.sum() > 0 else -x),
        r"torch\.fx cannot trace the network: .*control flow",
        id="control flow",
    ),
    pytest.param(lambda: Net(lambda net, x: (x, x)), r"output is not one tensor", id="two outputs"),
    pytest.param(lambda: Net(written_again), r"in place on .*read again later", id="in place"),
    pytest.param(lambda: Net(mixed), r"from one example of the batch to another", id="mixed"),
    pytest.param(lambda: Net(lambda net, x: x - x.mean(0)), r"mixes the examples", id="mean"),
    pytest.param(
        lambda: Net(lambda net, x: functional.dropout(x, 0.0, True)),
        r"dropout is active in eval mode",
        id="dropout",
    ),
    pytest.param(lambda: Net(lambda net, x: x.sin()), r"at sin: no Lipschitz constant", id="sin"),
    pytest.param(lambda: Net(lambda net, x: 1 / x), r"truediv.*no rule", id="reciprocal"),
    pytest.param(lambda: Net(lambda net, x: x.float().double()), r"float", id="cast"),
    pytest.param(
        lambda: Net(lambda net, x: net.lstm(x)[0], lstm=nn.LSTM(4, 4, batch_first=True)),
        r"at 'lstm': LSTM has no known Lipschitz constant",
        id="recurrent",
    ),
    pytest.param(
        lambda: Net(lambda net, x: net.norm(x), norm=nn.BatchNorm1d(3, track_running_stats=False)),
        r"at 'norm': BatchNorm without running statistics",
        id="batch statistics",
    ),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
def test_refused_with_the_reason(make: Callable[[], nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    model = make().double().eval()
    other = copy.deepcopy(model)
    other.first.weight.data *= 0.9  # type: ignore[operator,union-attr]
    x = gaussian(5, 3, 4)
    found = certify(model, other, x, ["first"], batch_size=3)
    assert not found.network.certified
    assert found.network.reason is not None
    assert re.search(reason, found.network.reason), found.network.reason
    assert found.network.certificate is None and found.network.worst_case is None
    assert found.network.measured.max > 0
    layer = found.layers["first"]
    assert 0 < layer.measured <= layer.bound


def test_an_argument_with_a_default_is_that_default() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)

        def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
            result: Tensor = self.first(x) * scale
            return result

    model = lively(Scaled())
    network = certify(model, disturbed(model, 0.1), gaussian(5, 4), ["first"]).network
    assert network.tightness is not None
    assert network.tightness.median == pytest.approx(1.0, abs=1e-9)


def test_token_numbers_are_no_vectors() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)).double()
    found = certify(model, disturbed(model, 0.1), torch.arange(8).reshape(4, 2), ["1"])
    assert found.network.reason == "its inputs are torch.int64 numbers and no vectors"
    assert found.network.measured.max > 0
    assert 0 < found.layers["1"].measured <= found.layers["1"].bound


def test_other_networks_differ_only_in_linear_layers() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 4), nn.PReLU()))
    other = disturbed(model, 0.1)
    other[1].weight.data += 1  # type: ignore[index,operator]
    reason = certify(model, other, gaussian(3, 4), ["0"]).network.reason
    assert reason is not None
    assert "at '1': the two networks differ here" in reason


def test_a_broken_layer_bound_fails_and_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        layers.LinearPair, "norm", lambda self, weight, example: Norm(1e-3, "wrong")
    )
    model = lively(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(
        LowRankError, match=r"layer '0': the measured .* exceeds its certified bound 0\.001 \(wrong"
    ):
        certify(model, disturbed(model, 0.5), gaussian(3, 4), ["0"])


def test_a_broken_certificate_fails_with_its_values() -> None:
    measured, certificate = (torch.tensor([1.0, v], dtype=torch.float64) for v in (2.0, 1.9))
    with pytest.raises(LowRankError, match=r"error 2 on example 1 exceeds its certificate 1\.9;"):
        network._check_certificate(measured, certificate, 10.0)
    with pytest.raises(LowRankError, match=r"exceeds its worst case 1\.75"):
        network._check_certificate(measured, measured, 1.75)
    with pytest.raises(LowRankError, match="nan"):
        network._check_certificate(torch.tensor([float("nan")]), torch.ones(1), 2.0)
    network._check_certificate(measured, measured, 2.0)
