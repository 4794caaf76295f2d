"""The bounds of whole networks: closed forms of chains, and random networks of all shapes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank import Energy, LowRankError, compress_
from pipeline.lowrank.bounds import Bounds, certify, printed_formula
from pipeline.lowrank.bounds.linear import is_linear
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.methods import make_method
from pipeline.models.resnet import ResNet
from tests.lowrank.bounds.test_norms import gaussian


def chain(*weights: Tensor, activation: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """Linear layers without bias, an activation between them."""
    parts: list[nn.Module] = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight
        parts += [layer] if not parts or activation is None else [activation(), layer]
    return nn.Sequential(*parts)


def truncated(weight: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


def spectral(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight, ord=2))


def linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if is_linear(module)]


def disturbed(model: nn.Module, size: float, seed: int = 0) -> nn.Module:
    """A copy whose linear layers, biases included, are moved by `size` of their norms."""
    other = copy.deepcopy(model)
    for place, name in enumerate(linear_names(other)):
        for parameter in other.get_submodule(name).parameters():
            step = gaussian(*parameter.shape, seed=100 * seed + place).to(parameter.dtype)
            parameter.data += size * parameter.data.norm() / step.norm() * step
    return other


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded weights; BatchNorm with statistics that do something; eval mode, float64."""
    for place, module in enumerate(model.modules()):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                noise = gaussian(*parameter.shape, seed=1000 * seed + place)
                scale = max(1, parameter[0].numel()) ** -0.5
                parameter.data = noise * scale if parameter.ndim > 1 else 0.3 * noise
                if name == "weight" and parameter.ndim == 1:
                    parameter.data += 1
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = gaussian(module.num_features, seed=place)
            module.running_var = gaussian(module.num_features, seed=place).square() + 0.5
    return model.double().eval()


def test_the_printed_formula_is_no_bound() -> None:
    """MATH §3: W₁ = 10·I, W₂ = diag(1, ½) cut to rank 1, x = e₂: error 5, formula 0.5."""
    first, second = 10 * torch.eye(2), torch.diag(torch.tensor([1.0, 0.5]))
    dense, other = chain(first, second), chain(first, truncated(second, 1))
    network = certify(dense, other, torch.tensor([[0.0, 1.0]]), ["1"]).network
    assert network.measured.max == pytest.approx(5.0)
    assert network.printed_formula == pytest.approx(0.5)
    assert network.printed_formula is not None
    assert network.printed_formula < network.measured.max
    assert network.certificate is not None
    assert network.certificate.max == pytest.approx(5.0)  # and this is tight
    assert network.worst_case == pytest.approx(5.0)
    assert printed_formula([(10.0, 0.0), (1.0, 0.5)], 1.0, 1.0) == 0.5


@pytest.mark.parametrize(("activation", "rho"), [(nn.ReLU, 1.0), (lambda: nn.LeakyReLU(1.5), 1.5)])
@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_of_a_chain(
    activation: Callable[[], nn.Module], rho: float, seed: int
) -> None:
    """The three figures of MATH §3 as they stand there, for three truncated layers."""
    sizes = [7, 9, 6, 5]
    dense = [gaussian(n, m, seed=10 * seed + m) for m, n in itertools.pairwise(sizes)]
    cut = [truncated(w, r) for w, r in zip(dense, (4, 3, 2), strict=True)]
    model, other = chain(*dense, activation=activation), chain(*cut, activation=activation)
    x = gaussian(8, 7, seed=seed)
    found = certify(model, other, x, ["0", "2", "4"])
    network = found.network
    norms, hats = [spectral(w) for w in dense], [spectral(w) for w in cut]
    errors = [spectral(w - c) for w, c in zip(dense, cut, strict=True)]
    longest = x.norm(dim=1).max().item()
    product = torch.tensor
    worst = printed = 0.0
    certificate = torch.zeros(8, dtype=torch.float64)
    hidden = x
    for place in range(3):
        after = product(hats[place + 1 :]).prod().item()
        worst += errors[place] * product(norms[:place]).prod().item() * after * rho**2 * longest
        behind = product(norms[place + 1 :]).prod().item()
        printed += errors[place] * behind * rho ** (2 - place) * longest
        moved = hidden @ (dense[place] - cut[place]).T
        certificate += rho ** (2 - place) * after * moved.norm(dim=1)
        hidden = activation()(hidden @ dense[place].T)
    assert network.worst_case == pytest.approx(worst, rel=1e-6)
    assert network.printed_formula == pytest.approx(printed, rel=1e-6)
    assert network.certificate is not None
    assert network.certificate.max == pytest.approx(certificate.max().item(), rel=1e-6)
    assert network.certificate.median == pytest.approx(certificate.quantile(0.5).item())
    for name, error, weight, rank in zip(found.layers, errors, dense, (4, 3, 2), strict=True):
        layer = found.layers[name]
        assert layer.bound == pytest.approx(error, rel=1e-12)
        assert layer.bound == pytest.approx(torch.linalg.svdvals(weight)[rank].item())
        assert 0 < layer.measured <= layer.bound


def test_a_layer_bound_is_reached_at_the_singular_vector() -> None:
    weight = gaussian(6, 9)
    _, values, right = torch.linalg.svd(weight, full_matrices=False)
    x = torch.stack([right[2], right[0] + 0.1 * right[5]])
    layer = certify(chain(weight), chain(truncated(weight, 2)), x, ["0"]).layers["0"]
    assert layer.measured == pytest.approx(layer.bound, rel=1e-12)
    assert layer.bound == pytest.approx(values[2].item(), rel=1e-12)
    assert layer.tightness == pytest.approx(1.0)


class Zoo(nn.Module):
    """Branches, concatenation, pooling, padding, groups, functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, 2, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(4)
        self.depth = nn.Conv2d(4, 8, 3, padding="same", groups=4)
        self.late = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.line = nn.Conv1d(4, 3, 3, dilation=2, padding_mode="circular", padding=2)
        self.act = nn.GELU()
        self.tokens = nn.Linear(3, 5)
        self.layer_norm = nn.LayerNorm(5)
        self.offset = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(60, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.norm(self.stem(x)), inplace=True)
        y = self.late(functional.max_pool2d(torch.tanh(self.depth(x)), 2))
        z = self.up(y).add_(self.offset)
        x = torch.cat([x, 0.5 * z - x], dim=1) / 2.0
        first, second = x.chunk(2, dim=1)
        x = self.act(first + second.mean((2, 3), keepdim=True))
        n = x.size(0)
        x = self.line(functional.avg_pool2d(x, (1, 1)).view(n, 4, -1))[:, :, :12]
        x = self.layer_norm(self.tokens(x.transpose(1, 2).contiguous()))
        return self.head(functional.dropout(x.flatten(1), 0.5, self.training))


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12), activation(), nn.BatchNorm1d(12), nn.Linear(12, 10, bias=False),
        activation(), nn.Dropout(0.3), nn.Linear(10, 4),
    )  # fmt: skip


def wide_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ELU(),
        nn.Conv1d(8, 8, 3, padding=1, groups=2, bias=False), nn.GroupNorm(2, 8), nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool1d(3), nn.Flatten(), nn.Linear(24, 5), nn.Softmax(dim=1),
    )  # fmt: skip


NETWORKS = [
    pytest.param(lambda: mlp(nn.ReLU), (6,), id="mlp relu"),
    pytest.param(lambda: mlp(nn.GELU), (6,), id="mlp gelu"),
    pytest.param(lambda: mlp(nn.Sigmoid), (6,), id="mlp sigmoid"),
    pytest.param(lambda: ResNet(widths=(4, 6), blocks=(1, 2), hidden=8), (1, 8, 8), id="resnet"),
    pytest.param(wide_conv, (3, 16), id="conv1d"),
    pytest.param(Zoo, (2, 8, 8), id="zoo"),
    pytest.param(lambda: nn.Linear(6, 4), (6,), id="one layer"),
    pytest.param(
        lambda: nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.MaxPool3d(2), nn.Flatten()),
        (1, 4, 4, 4),
        id="conv3d",
    ),
]


def check(found: Bounds, names: list[str], within: float) -> None:
    """measured ≤ certificate ≤ worst case, layer by layer and for the network, none of it 0;
    at least one of them within a factor, so that a bound of 10³⁰⁰ would not pass."""
    network = found.network
    assert network.certified, network.reason
    assert network.certificate is not None and network.tightness is not None
    assert network.worst_case is not None and network.printed_formula is not None
    assert 0 < network.measured.median <= network.certificate.median
    assert 0 < network.measured.max <= network.certificate.max <= network.worst_case
    assert 1 / within < network.tightness.median <= network.tightness.max <= 1
    assert list(found.layers) == names
    for layer in found.layers.values():
        assert 0 < layer.measured <= layer.bound + layer.slack
        assert layer.slack < 1e-9


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
@pytest.mark.parametrize("size", [1e-6, 0.3])
def test_measured_certificate_worst_case(
    make: Callable[[], nn.Module], shape: tuple[int, ...], size: float
) -> None:
    for seed in range(2):
        model = lively(make(), seed)
        names = linear_names(model)
        other = disturbed(model, size, seed)
        found = certify(model, other, gaussian(6, *shape, seed=seed), names, batch_size=4)
        check(found, names, within=1e5)


@pytest.mark.parametrize(("make", "shape"), NETWORKS[:4])
@pytest.mark.parametrize("method", ["svd", "pivoted_svd", "tucker2", "cp"])
def test_factorized_networks(
    make: Callable[[], nn.Module], shape: tuple[int, ...], method: str
) -> None:
    dense = lively(make()).float()
    x = gaussian(5, *shape).float()
    chosen = make_method(method, {"cp_iterations": 5, "cp_rank_grid": 3})
    done = compress_(copy.deepcopy(dense), Energy(0.7), x[:1], methods=[chosen])
    if done.layers:
        found = certify(dense, done.network, x, list(done.layers))
        check(found, list(done.layers), within=1e5)


def test_only_the_last_layer_changed_is_tight() -> None:
    model = lively(ResNet(widths=(4, 6), blocks=(1, 1), hidden=8))
    other = copy.deepcopy(model)
    other.get_submodule("head.2").weight.data *= 0.9  # type: ignore[operator,union-attr]
    network = certify(model, other, gaussian(5, 1, 8, 8), ["head.2"]).network
    assert network.tightness is not None
    assert network.tightness.median == pytest.approx(1.0, abs=1e-9)


def test_unchanged_networks_have_no_error_but_rounding() -> None:
    model = lively(ResNet(widths=(4,), blocks=(1,), hidden=4))
    network = certify(model, copy.deepcopy(model), gaussian(3, 1, 6, 6), []).network
    assert network.certificate is not None
    assert network.measured.max == 0.0
    assert network.certificate.max < 1e-9
    assert network.printed_formula == 0.0


def test_batch_norm_is_folded_into_the_convolution() -> None:
    """Channel scales 100 and 0.01 after a kernel that is large where the scale is small: the
    folded map has norm 1, the product of the two norms is 10,000."""
    conv, norm = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0)
    conv.weight.data = torch.tensor([0.01, 100.0]).reshape(2, 1, 1, 1)
    norm.running_var = torch.tensor([1e-4, 1e4])
    before = nn.Conv2d(1, 1, 1, bias=False)
    model = nn.Sequential(before, conv, norm).double().eval()
    other = copy.deepcopy(model)
    other[0].weight.data += 0.1
    network = certify(model, other, gaussian(4, 1, 3, 3), ["0"]).network
    assert network.tightness is not None
    assert network.tightness.median == pytest.approx(1.0, rel=1e-9)


def test_batches_do_not_matter_and_nothing_is_changed() -> None:
    model = ResNet(widths=(4, 6), blocks=(1, 1), hidden=8).train()
    other = disturbed(model, 0.1)
    before = {k: v.clone() for k, v in [*model.state_dict().items(), *other.state_dict().items()]}
    x = gaussian(7, 1, 8, 8).float()
    names = linear_names(model)
    one, many = (certify(model, other, x, names, batch_size=size) for size in (1, 7))
    for key in ("measured", "certificate", "tightness"):
        found, expected = (asdict(getattr(bounds.network, key)) for bounds in (one, many))
        assert found == pytest.approx(expected, rel=1e-9)
    assert one.network.worst_case == pytest.approx(many.network.worst_case, rel=1e-12)
    for name in names:
        assert one.layers[name].bound == many.layers[name].bound
        assert one.layers[name].measured == pytest.approx(many.layers[name].measured)
    after = dict([*model.state_dict().items(), *other.state_dict().items()])
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert model.training and other.training
    assert not any(m._forward_hooks for m in model.modules())


def test_a_layer_used_twice_and_one_that_is_never_used() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.idle = nn.Linear(5, 5), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))

    model = lively(Twice())
    found = certify(model, disturbed(model, 0.1), gaussian(4, 5), ["layer", "idle"])
    check(found, ["layer"], within=10.0)


def test_factorized_parts_are_known_to_be_linear() -> None:
    parts = [nn.Linear(4, 2, bias=False), nn.Linear(2, 4)]
    assert is_linear(Factorized(parts, "svd", (2,)))
    assert not is_linear(nn.Embedding(3, 4))


def test_no_examples_is_an_error() -> None:
    with pytest.raises(LowRankError, match="no example"):
        certify(nn.Linear(2, 2), nn.Linear(2, 2), torch.empty(0, 2), [""])


def test_what_does_not_fit_is_measured_and_not_bounded() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    other = copy.deepcopy(dense)
    with torch.no_grad():
        other[2].weight.add_(0.1)
    x = torch.randn(5, 6)
    whole = certify(dense, other, x, ["2"])
    found = certify(dense, other, x, ["2"], memory_gib=1e-9)
    assert not found.layers and not found.network.certified
    assert found.network.reason and "certify.memory_gib is 1e-09" in found.network.reason
    assert found.network.measured.max == pytest.approx(whole.network.measured.max, rel=1e-5)
    assert whole.network.certified
