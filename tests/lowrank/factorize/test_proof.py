"""One forward pass after `apply_`: a network that fails with a factorized layer comes back as it
was, and the layer is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import (
    Factorized,
    Fixed,
    LowRankError,
    Plan,
    apply_,
    compress_,
    load_plan,
    plan,
    save_plan,
)

X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))


class Insists(nn.Module):
    """Fails where the layers that it names are no Linears; `least` of them at once."""

    def __init__(self, insists: tuple[str, ...] = ("b",), least: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64)
        self.insists, self.least, self.runs = insists, least, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        factorized = [n for n in self.insists if not isinstance(getattr(self, n), nn.Linear)]
        if len(factorized) >= self.least:
            raise TypeError(f"{', '.join(factorized)} must be\n a Linear")
        result: Tensor = self.b(self.norm(self.a(x)))
        return result


def untouched(net: Insists, chosen: Plan, message: str, example: Tensor | None = None) -> None:
    modules = dict(net.named_modules())
    modes = {name: module.training for name, module in modules.items()}
    state = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(LowRankError, match=message) as info:
        apply_(net, chosen, example=example)
    assert "\n" not in str(info.value)
    assert dict(net.named_modules()) == modules, "the very same objects"
    assert {name: module.training for name, module in modules.items()} == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_layer_that_the_network_cannot_do_without_is_named_and_all_is_as_it_was() -> None:
    net = Insists().train()
    net.norm.eval()
    chosen = plan(net, Fixed(8), X[:1])
    assert list(chosen.factorized) == ["a", "b"]
    untouched(
        net,
        chosen,
        r"layer 'b': .*fails on the example \(TypeError: b must be a Linear\).*exclude=\['b'\]",
    )
    assert list(compress_(net, Fixed(8), X[:1], exclude=["b"]).layers) == ["a"]


def test_layers_that_fail_only_together_are_told_so() -> None:
    net = Insists(("a", "b"), least=2)
    untouched(net, plan(net, Fixed(8), X[:1]), r"with each of them alone it runs")


def test_the_pass_is_in_eval_mode_and_moves_no_statistic() -> None:
    net = Insists(()).train()
    mean = net.norm.running_mean.clone()
    chosen = plan(net, Fixed(8), X[:1])
    before = net.runs
    done = apply_(net, chosen)  # a batch of one would fail in a BatchNorm that trains
    assert net.runs == before + 1 and done.ran and net.training and net.norm.training
    assert torch.equal(net.norm.running_mean, mean) and isinstance(net.a, Factorized)


def test_a_plan_from_a_file_is_proved_by_the_example_of_the_caller(tmp_path: Path) -> None:
    net = Insists()
    save_plan(tmp_path / "plan.json", plan(net, Fixed(8), X[:1]))
    untouched(net, load_plan(tmp_path / "plan.json"), "layer 'b'", X[:1])


def test_an_example_that_the_dense_network_does_not_run_is_told() -> None:
    net = Insists(())
    untouched(net, plan(net, Fixed(8), X[:1]), "does not run the example: RuntimeError", X[:, :3])


def test_where_only_the_kept_example_fails_nothing_is_proved() -> None:
    """As for a network that was moved to another device since."""
    net = Insists(())
    chosen = plan(net, Fixed(8), X[:1])
    net.register_forward_pre_hook(lambda _, given: (given[0][:, :3],))
    assert not apply_(net, chosen).ran
    assert isinstance(net.a, Factorized)


def test_an_interruption_leaves_the_dense_network() -> None:
    net = Insists(())
    chosen = plan(net, Fixed(8), X[:1])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    net.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        apply_(net, chosen)
    assert isinstance(net.a, nn.Linear) and isinstance(net.b, nn.Linear)


def test_a_root_is_proved_too() -> None:
    net = nn.Linear(64, 64)
    chosen = plan(net, Fixed(8), X[:1])
    done = apply_(net, chosen)
    assert done.ran and isinstance(done.network, Factorized)
