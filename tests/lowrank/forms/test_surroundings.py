"""What surrounds a layer stays as it was: hooks, modes, gradients, memory layout, and the whole
network where something fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import (
    SVD,
    Budget,
    Energy,
    Factorized,
    Fixed,
    LowRankError,
    PivotedTucker2,
    PlannedLayer,
    Tucker2,
    analyze,
    apply_,
    compress_,
    plan,
)
from pipeline.lowrank.forms import get_form
from pipeline.lowrank.methods import Method

X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 1))


def halved(net: nn.Sequential, methods: tuple[Method, ...] = ()) -> nn.Sequential:
    example = X[:1] if isinstance(net[0], nn.Linear) else IMAGES[:1]
    compress_(net, Fixed(4), example, methods=methods or (PivotedTucker2(),))
    assert isinstance(net[0], Factorized) and isinstance(net[2], Factorized)
    return net


# -- hooks ---------------------------------------------------------------------------------


def test_hooks_of_every_sort_run_as_before_and_their_handles_remove_them() -> None:
    net, called = mlp(), []

    def note(name: str) -> Callable[..., None]:
        return lambda *_, **__: called.append(name)

    layer = net[0]
    handles = [
        layer.register_forward_pre_hook(note("before")),
        layer.register_forward_pre_hook(note("before, keywords"), with_kwargs=True),
        layer.register_forward_hook(note("after")),
        layer.register_forward_hook(note("after, keywords"), with_kwargs=True),
        layer.register_forward_hook(note("always"), always_call=True),
        layer.register_full_backward_pre_hook(note("backward, before")),
        layer.register_full_backward_hook(note("backward, after")),
    ]
    net(X.clone().requires_grad_()).sum().backward()
    before = list(called)
    assert len(before) == len(handles)
    halved(net)
    called.clear()
    net(X.clone().requires_grad_()).sum().backward()
    assert called == before
    for handle in handles:
        handle.remove()
    called.clear()
    net(X).sum().backward()
    assert called == []


def test_hooks_that_change_values_still_do() -> None:
    net = mlp()
    net[0].register_forward_pre_hook(lambda module, args: (0 * args[0],))
    net[2].register_forward_hook(lambda module, args, output: output + 100.0)
    halved(net)
    expected = net[2](net[0].get_parameter("1.bias").clone().relu()[None]).expand(4, -1)
    assert torch.allclose(net(X), expected, atol=1e-5)
    assert (net(X) > 50).all()


def test_a_hook_of_ours_is_not_left_behind() -> None:
    net = halved(mlp())
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, table) for module in net.modules() for table in tables)


# -- gradients, layout, copies -------------------------------------------------------------


@pytest.mark.parametrize("method", [SVD(), PivotedTucker2()], ids=lambda method: method.name)
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_what_is_frozen_stays_frozen(
    make: Callable[[], nn.Sequential], weight: bool, bias: bool, method: Method
) -> None:
    net = make()
    net[0].weight.requires_grad_(weight)
    net[0].bias.requires_grad_(bias)
    halved(net, (method,))
    of = {name: p.requires_grad for name, p in net[0].named_parameters()}
    biases = {name for name in of if name.endswith("bias")}
    assert len(biases) == 1 and len(of) >= 3
    assert all(of[name] is (bias if name in biases else weight) for name in of)
    assert all(p.requires_grad for p in net[2].parameters())


@pytest.mark.parametrize("method", [SVD(), Tucker2(), PivotedTucker2()], ids=lambda m: m.name)
def test_channels_last_is_kept(method: Method) -> None:
    plain, turned = cnn(), cnn().to(memory_format=torch.channels_last)
    halved(plain, (method,))
    halved(turned, (method,))
    kernels = [p for p in turned[0].parameters() if p.dim() == 4 and p[0, 0].numel() > 1]
    assert kernels
    for kernel in kernels:
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        assert not kernel.is_contiguous()
    assert all(p.is_contiguous() for p in plain.parameters())
    assert torch.allclose(turned(IMAGES), plain(IMAGES), atol=1e-5)
    # The layers that follow get it as they would from the dense layer.
    assert turned[0].eval()(IMAGES).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_a_copy_is_the_same_network_and_shares_nothing(make: Callable[[], nn.Sequential]) -> None:
    net = halved(make())
    x = X if make is mlp else IMAGES
    other = copy.deepcopy(net)
    before = net(x).detach()
    assert torch.equal(other(x), before)
    assert other[0].form is net[0].form is get_form(net[0].form.name)
    assert other[0].ranks == net[0].ranks
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(net(x), before)
    assert not torch.allclose(other(x), before)


def test_a_copy_has_hooks_of_its_own() -> None:
    net, called = mlp(), []
    handle = net[0].register_forward_hook(lambda *_: called.append(1))
    other = copy.deepcopy(halved(net))
    called.clear()
    handle.remove()
    net(X)
    assert not called
    other(X)
    assert called == [1]


# -- failures ------------------------------------------------------------------------------


def untouched(net: nn.Module, act: Callable[[], object], message: str) -> None:
    modules = dict(net.named_modules())
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(LowRankError, match=message) as info:
        act()
    assert "\n" not in str(info.value)
    assert dict(net.named_modules()) == modules, "the very same objects"
    after = net.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_failure_at_the_second_layer_leaves_the_first_as_it_was() -> None:
    net = mlp()
    chosen = plan(net, Budget(params=0.5), X[:1])
    assert list(chosen.factorized) == ["0", "2"]
    with torch.no_grad():
        net[2].weight.add_(torch.randn(64, 64))
    untouched(net, lambda: apply_(net, chosen), r"layer '2': .*(outside its|predicts exactly)")


def test_a_bad_certificate_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp()
    chosen = plan(net, Budget(params=0.5), X[:1], methods=[SVD()])
    analysis = chosen.analysis
    assert analysis is not None
    wrong = analyze(mlp().apply(_doubled), X[:1])
    mixed = replace(analysis, spectra={"0": analysis.spectra["0"], "2": wrong.spectra["2"]})
    untouched(net, lambda: apply_(net, chosen, mixed), r"layer '2': the measured relative error")


def _doubled(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.weight.data = module.weight.data * torch.linspace(0.1, 3.0, 64)


def test_ranks_that_do_not_fit_leave_all_as_it_was() -> None:
    net = mlp()
    chosen = plan(net, Energy(0.5), X[:1]).with_layers(**{"2": PlannedLayer("svd", (65,))})
    untouched(net, lambda: apply_(net, chosen), r"layer '2'.* rank 65 is not in 1\.\.64")


def test_solvers_that_fail_leave_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp()
    chosen = plan(net, Budget(params=0.5), X[:1], methods=[SVD()])
    calls: list[Tensor] = []
    factorize = SVD.factorize

    def once(self: SVD, *given: object) -> tuple[Tensor, ...]:
        calls.append(X)
        if len(calls) > 1:
            raise LowRankError("no convergence")
        return factorize(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(SVD, "factorize", once)
    untouched(net, lambda: apply_(net, chosen), "no convergence")
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["1x1", "linear"])
def test_a_plan_edited_to_full_pivoted_rank_runs_and_is_exact(kind: str) -> None:
    net: nn.Module
    if kind == "1x1":
        net, x = nn.Sequential(nn.Conv2d(64, 32, 1)).eval(), torch.randn(1, 64, 4, 4)
    else:
        net, x = nn.Sequential(nn.Linear(64, 32)).eval(), torch.randn(1, 64)
    dense = net(x)
    chosen = plan(net, Budget(params=0.5), x)
    edited = chosen.with_layers(**{"0": PlannedLayer("pivoted_svd", (32,))})
    done = apply_(net, edited)
    assert done.layers["0"].measured_relative_error < 1e-6
    assert done.layers["0"].params == done.layers["0"].dense_params
    for training in (False, True):
        assert torch.allclose(net.train(training)(x), dense, atol=1e-5)
