"""Which layers a network has that data reaches, and at how many positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.survey import survey


class Routed(nn.Module):
    """Each example goes to one of three experts, by the sign of its first number; to the third
    none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x[:, 0] > 0).long()
        out = torch.zeros_like(x)
        for place in chosen.unique().tolist():
            out[chosen == place] = self.experts[place](x[chosen == place])
        found: Tensor = self.head(out.tanh())
        return found


def routed(*signs: float) -> Tensor:
    x = torch.randn(len(signs), 12, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.tensor(signs)
    return x


def test_an_expert_that_the_example_is_not_routed_to_is_reached_by_the_calibration_data() -> None:
    alone = survey(Routed(), routed(-1))
    assert set(alone.targets) == {"experts.0", "head"}
    batches = [routed(-1, -1, 1), routed(1, 1, 1), routed(1)]
    found = survey(Routed(), routed(-1), further=batches)
    assert set(found.targets) == {"experts.0", "experts.1", "head"}
    # The second batch reaches no other, and is the last that is run: 4 positions of 6 examples.
    assert found.targets["experts.1"].in_positions == 1
    assert found.skipped["experts.2"].reason == "not used in the forward pass"
    assert found.targets["experts.0"] == alone.targets["experts.0"]


@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
def test_such_an_expert_is_factorized_in_every_metric(metric: str) -> None:
    torch.manual_seed(0)
    calibration = [torch.cat([routed(-1), torch.randn(31, 12)]) for _ in range(4)]
    net = Routed()
    plan = lr.plan(net, lr.Fixed(ranks=3), calibration=calibration, metric=metric)  # type: ignore[arg-type]
    assert "experts.1" in plan.factorized
    assert "experts.2" not in plan.layers
    network = lr.apply_(net, plan).network
    assert network(calibration[0]).isfinite().all()


class InPlace(nn.Module):
    """Overwrites in eval mode what its backward pass would need."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x).exp()
        out: Tensor = self.two(hidden)
        if not self.training:
            hidden.mul_(2)
        return out + hidden


def test_a_network_without_a_backward_pass_is_told_in_one_line() -> None:
    with pytest.raises(lr.LowRankError, match=r"no backward pass in eval mode.*metric input"):
        lr.plan(InPlace(), lr.Fixed(ranks=2), calibration=[torch.randn(4, 8)], metric="fisher")
    assert lr.plan(InPlace(), lr.Fixed(ranks=2), calibration=[torch.randn(4, 8)], metric="input")


class Lent(nn.Module):
    """Lends the weights of its layers to a function that does everything by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = functional.multi_head_attention_forward(
            x, x, x, 8, 2, self.qkv.weight, self.qkv.bias, None, None, False, 0.0,
            self.out(x)[0, 0, :0].new_zeros(8, 8), None,
        )[0]  # fmt: skip
        return found


def test_a_layer_whose_weight_a_function_takes_is_told_so() -> None:
    found = survey(Lent(), torch.randn(3, 1, 8))
    assert set(found.targets) == {"out"}
    assert "its weight is read by multi_head_attention_forward" in found.skipped["qkv"].reason
