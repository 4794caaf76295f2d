"""Layers for which statistics are scarce, constant, absent or no numbers: a plan, or one line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pipeline.lowrank as lr
from pipeline.lowrank.analysis import collecting
from pipeline.lowrank.analysis.collecting import collect_moments
from pipeline.lowrank.analysis.metrics import cholesky

DATA_METRICS = ["input", "fisher"]


def planned(net: nn.Module, batches: list[Tensor], metric: str, **options: object) -> lr.Plan:
    return lr.plan(  # type: ignore[arg-type]
        net, lr.Budget(params=0.9), calibration=batches, metric=metric, held_out=[], **options
    )


class Timed(nn.Module):
    """A branch reads a constant, as the time embedding of a diffusion model at one step does."""

    def __init__(self, size: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.x, self.out = nn.Linear(32, 32), nn.Linear(32, 10)
        self.register_buffer("step", size * torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out((self.x(x) + self.time(self.step.expand(len(x), -1))).relu())
        return out


@pytest.mark.parametrize("metric", DATA_METRICS)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_a_layer_with_a_constant_input_gets_a_plan(metric: str, size: float) -> None:
    net = Timed(size)
    made = planned(net, [torch.randn(256, 32) for _ in range(4)], metric)
    assert "time.0" in made.layers
    assert torch.isfinite(lr.apply_(net, made).network(torch.randn(3, 32))).all()


def test_sums_of_inputs_that_hardly_vary_are_centred() -> None:
    """The covariance keeps its digits where the difference of second moments would not."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    x = 1000 + 0.01 * torch.randn(600, 8)
    found = collect_moments(layer, list(x.split(200)), {"": layer}, gradients=False)[""]
    exact = torch.cov(x.double().T, correction=0)
    assert found.covariance is not None
    assert torch.allclose(found.covariance[0], exact, rtol=0, atol=1e-5 * exact.max())
    assert torch.allclose(found.inputs[0], x.double().T @ x.double() / 600, rtol=1e-9)
    wide = torch.randn(600, 8)
    plain = collect_moments(layer, [wide], {"": layer}, gradients=False)[""]
    assert plain.covariance is None


@pytest.mark.parametrize("metric", DATA_METRICS)
@pytest.mark.parametrize(
    "batch",
    [torch.zeros(20, 32), torch.randn(1, 32), torch.randn(30, 32) * (torch.arange(32) > 3)],
    ids=["zeros", "one example", "dead channels"],
)
def test_scarce_inputs_get_a_plan(metric: str, batch: Tensor) -> None:
    net = Timed(1.0)
    done = lr.apply_(net, planned(net, [batch], metric))
    assert torch.isfinite(done.network(torch.randn(3, 32))).all()


def test_a_matrix_that_is_no_covariance_is_damped_more_or_named() -> None:
    nearly = torch.diag(torch.tensor([1.0, -3e-5], dtype=torch.float64))[None]
    floor = torch.full((1, 1), 1e-6, dtype=torch.float64)
    factor = cholesky(nearly, floor, "a")
    assert torch.allclose(factor @ factor.mT, nearly + 1e-4 * torch.eye(2, dtype=torch.float64))
    with pytest.raises(lr.LowRankError, match=r"^layer 'a': [^\n]*exclude=\[a\][^\n]*$"):
        cholesky(-torch.eye(2, dtype=torch.float64)[None], floor, "a")


class Apart(nn.Module):
    """An auxiliary head, a part without gradients, a layer for another kind of example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.body = nn.Linear(32, 32), nn.Linear(32, 32)
        self.aux, self.other, self.out = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.frozen(x)
        hidden = self.body(x).relu()
        self.last = self.aux(hidden)
        if len(x) == 1:  # the example that counts positions goes through it, calibration does not
            hidden = self.other(hidden)
        out: Tensor = self.out(hidden)
        return out


@pytest.mark.parametrize("metric", DATA_METRICS)
def test_layers_that_do_not_reach_the_loss_are_named_and_stay_dense(metric: str) -> None:
    made = planned(Apart(), [torch.randn(64, 32)], metric, example=torch.randn(1, 32))
    why = {"other": "not reached by the calibration data"}
    if metric == "fisher":
        reason = "no gradient of the loss reaches it, which the metric fisher needs"
        why |= {"frozen": reason, "aux": reason}
    assert {name: one.reason for name, one in made.skipped.items()} == why
    assert set(made.layers) == {"frozen", "body", "aux", "other", "out"} - set(why)


class Useless(nn.Module):
    """A branch with gradients of exactly zero, by a factor or by a ReLU that never opens."""

    def __init__(self, closed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.branch = nn.Linear(32, 32), nn.Linear(32, 32)
        self.out, self.closed = nn.Linear(32, 10), closed
        if closed:
            self.branch.bias.data.fill_(-1e4)

    def forward(self, x: Tensor) -> Tensor:
        hidden, more = self.body(x).relu(), self.branch(x)
        out: Tensor = self.out(hidden + (more.relu() if self.closed else 0 * more))
        return out


@pytest.mark.parametrize("closed", [True, False])
def test_gradients_of_exactly_zero_measure_nothing_and_cost_nothing(closed: bool) -> None:
    """Such a layer would else be weighed as if every output were worth a nat."""
    x, net = torch.randn(64, 32), Useless(closed)
    made = planned(net, [x], "fisher")
    assert "gradient at it is zero on all calibration data" in made.skipped["branch"].reason
    assert set(made.layers) == {"body", "out"}
    assert "branch" in planned(net, [x], "input").layers
    net.out.weight.data.zero_()
    blind = planned(net, [x], "fisher", exclude=["out"])
    assert set(blind.layers) == {"body", "branch"}
    assert all("no gradient at any layer" in one.why for one in blind.layers.values())
    assert not any("no gradient" in one.why for one in made.layers.values())


@pytest.mark.parametrize("side", ["inputs", "gradients"])
def test_a_group_without_statistics_is_no_weightier_than_the_others(side: str) -> None:
    """Two groups, the second dead: all that is measured is the error of the first."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.both, self.out = nn.Conv1d(16, 16, 3, groups=2), nn.Linear(16 * 6, 10)

        def forward(self, x: Tensor) -> Tensor:
            alive = torch.cat([torch.ones(8), torch.zeros(8)])[:, None]
            x = self.both(x * alive if side == "inputs" else x)
            out: Tensor = self.out((x * alive if side == "gradients" else x).flatten(1))
            return out

    net = Halves()
    found = planned(net, [1e-2 * torch.randn(40, 16, 8)], "fisher").analysis
    assert found is not None
    first, second = found.whiten("both", net.both.weight.detach()).split(8)
    assert first.norm() > 2 * second.norm() > 0


def test_a_network_that_no_gradient_reaches_is_refused_in_one_line() -> None:
    class Frozen(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(lr.LowRankError, match=r"^no layer can be measured [^\n]*fisher[^\n]*$"):
        planned(Frozen(nn.Linear(32, 10)), [torch.randn(8, 32)], "fisher")


def test_very_wide_layers_have_a_diagonal_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 40)), torch.randn(200, 16)
    whole = collect_moments(net, [x], {"2": net[2]}, gradients=True)["2"].outputs
    monkeypatch.setattr(collecting, "WIDEST", 39)
    diagonal = collect_moments(net, [x], {"2": net[2]}, gradients=True)["2"].outputs
    assert whole is not None and diagonal is not None
    assert torch.allclose(diagonal, whole.diagonal(dim1=1, dim2=2), rtol=1e-5)
    made = planned(net, [x], "fisher")
    assert "diagonal" in made.layers["2"].why and "diagonal" not in made.layers["0"].why
    assert lr.apply_(net, made).network(x).shape == (200, 40)


def test_a_head_of_many_classes_keeps_the_memory_limit() -> None:
    """Refused before anything runs, where its matrix would fit; else a vector."""
    head = nn.Linear(16, 4000)
    with pytest.raises(lr.LowRankError, match=r"^layer 'head': its sums take 0\.36 GiB"):
        # No batch is read: this one could not be.
        collect_moments(head, ["?"], {"head": head}, gradients=True, memory_limit=1 << 20)
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 2000))
    with pytest.raises(lr.LowRankError, match=r"^layer '1': [^\n]* raise memory_gib"):
        planned(net, [torch.randn(4, 32)], "fisher", memory_gib=0.05)
    head = nn.Linear(16, 40_000)
    found = collect_moments(
        head, [torch.randn(4, 16)], {"": head}, gradients=True, memory_limit=1 << 20
    )
    assert found[""].outputs is not None and found[""].outputs.shape == (1, 40_000)


@pytest.mark.parametrize("metric", DATA_METRICS)
def test_what_is_no_number_is_told_in_one_line(metric: str) -> None:
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    with pytest.raises(lr.LowRankError, match=r"^layer '0': [^\n]* hold NaN or Inf [^\n]*$"):
        planned(net, [torch.full((4, 32), torch.nan)], metric, example=torch.ones(1, 32))


def test_an_output_that_is_no_number_is_told_in_one_line() -> None:
    class Divided(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0.0

    net = nn.Sequential(nn.Linear(32, 32), Divided(32, 10))
    with pytest.raises(lr.LowRankError, match=r"^the network's output holds NaN or Inf"):
        planned(net, [torch.randn(4, 32)], "fisher")


def test_masked_classes_are_no_fault() -> None:
    """A logit of −∞ is a class that cannot be drawn."""

    class Masked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(super().forward(x)).index_fill(1, torch.tensor([2]), -torch.inf)

    net = Masked(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    assert planned(net, [torch.randn(40, 32)], "fisher").layers


@pytest.mark.parametrize("metric", DATA_METRICS)
def test_the_memory_of_one_weight_is_known_before_anything_runs(metric: str) -> None:
    """A table's sums are vectors; whitening it takes three copies in float64."""

    class Counted(nn.Embedding):
        pass

    net = nn.Sequential(Counted(20_000, 64), nn.Flatten(), nn.Linear(64, 10))
    ids = torch.zeros(4, 1, dtype=torch.int64)
    told = r"^layer '0': its weight in a metric takes 0\.029 GiB, [^\n]* raise memory_gib[^\n]*$"
    with pytest.raises(lr.LowRankError, match=told):
        # No batch is read: this one could not be.
        planned(net, ["?"], metric, memory_gib=0.02, example=ids[:1])  # type: ignore[list-item]
    assert planned(net, [ids], metric, memory_gib=0.04).layers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", ["weight", *DATA_METRICS])
def test_networks_of_two_bytes_a_number_get_a_plan(metric: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 16, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 64, 10),
    ).to(dtype)
    x = torch.randn(24, 4, 6, 6).to(dtype)
    made = planned(net, [x], metric)
    done = lr.apply_(net, made)
    assert done.layers and {p.dtype for p in net.parameters()} == {dtype}
    assert torch.isfinite(net.train()(x)).all()


def test_empty_batches_are_passed_over() -> None:
    net, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)), torch.randn(40, 32)
    assert planned(net, [x[:0], x], "fisher").layers == planned(net, [x], "fisher").layers
    with pytest.raises(lr.LowRankError, match=r"^no calibration batch holds an example"):
        planned(net, [x[:0]], "fisher")


def test_one_token_in_all_gets_a_plan() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ids, self.body, self.out = (
                nn.Embedding(50, 32),
                nn.Linear(32, 32),
                nn.Linear(32, 50),
            )

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.body(self.ids(ids))).transpose(1, 2)

    for metric in DATA_METRICS:
        made = planned(Text(), [torch.tensor([[3]])], metric, task="causal_lm")
        assert set(made.layers) == {"ids", "body", "out"}


@pytest.mark.parametrize("metric", ["weight", *DATA_METRICS])
def test_inference_mode_is_left_or_named(metric: str) -> None:
    net, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)), torch.randn(40, 32)
    with torch.inference_mode():
        lr.apply_(net, planned(net, [x], metric))
        made_there = nn.Linear(32, 10)
    net(x).sum().backward()
    if metric != "weight":
        with pytest.raises(lr.LowRankError, match=r"^0\.weight was made under"):
            planned(nn.Sequential(made_there), [x], metric)
