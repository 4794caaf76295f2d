"""Experts in one parameter, and weights that a forward reads by hand, are targets."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.collecting import collect_moments
from pipeline.lowrank.analysis.files import save_analysis
from pipeline.lowrank.analysis.survey import survey
from pipeline.lowrank.forms.on_demand import OnDemand
from pipeline.lowrank.network.costs import network_totals
from pipeline.lowrank.tasks import Classification
from tests.lowrank.network.expert_kinds import (
    EXPERT_KINDS,
    AllAtOnce,
    ByHand,
    ExpertKind,
    Experts,
    Routed,
)

pytest.importorskip("transformers")
EACH = pytest.mark.parametrize("kind", EXPERT_KINDS, ids=lambda kind: kind.name)
RUNS = pytest.mark.parametrize(
    ("kind", "way"), [(k, way) for k in EXPERT_KINDS for way in k.implementations]
)
IDS = torch.randint(60, (8, 12), generator=torch.Generator().manual_seed(1))


def vectors(count: int, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
    rows[:, 0] = torch.rand(count, generator=generator, dtype=torch.float64)
    return rows


def low(model: nn.Module, metric: str = "weight") -> lr.Plan:
    return lr.plan(
        model,
        lr.Budget(params=0.6),
        IDS[:1],
        calibration=[] if metric == "weight" else [IDS[:4], IDS[4:]],
        task="causal_lm",
        metric=metric,  # type: ignore[arg-type]
        exclude=["lm_head", "model.embed_tokens"],
        contest_examples=0,
    )


def at_rank(plan: lr.Plan, method: str, lower: int = 0) -> lr.Plan:
    """Every target by one method, at its full rank less `lower`."""
    assert plan.analysis is not None
    targets = plan.analysis.targets.items()
    layers = {n: lr.PlannedLayer(method, (min(t.group_shape) - lower,)) for n, t in targets}
    return plan.with_layers(**layers)


def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(IDS).logits
    return found


@pytest.fixture
def nothing_multiplied_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: OnDemand) -> Tensor:
        raise AssertionError("a weight was multiplied out")

    monkeypatch.setattr(OnDemand, "numbers", refuse)


@EACH
def test_all_matrices_of_a_mixture_are_targets(kind: ExpertKind) -> None:
    model = kind.make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = low(model)
    assert found.analysis is not None
    reached = sum(target.params for target in found.analysis.targets.values())
    held = dict(model.named_parameters())
    matrices = {n: p for n, p in held.items() if p.dim() > 1 and "embed" not in n}
    total = sum(p.numel() for n, p in matrices.items() if "lm_head" not in n)
    assert reached >= 0.95 * total
    stacks = [t for t in found.analysis.targets.values() if t.kind == "stack" and t.groups == 4]
    assert len(stacks) == sum(p.dim() == 3 for p in matrices.values())
    assert {stack.in_first for stack in stacks} == {kind.in_first}
    after = model.state_dict()
    assert list(after) == list(before), "plan changes nothing"
    assert all(torch.equal(after[key], before[key]) for key in before)


@RUNS
def test_a_factorized_mixture_runs_by_its_factors(
    kind: ExpertKind, way: str, nothing_multiplied_out: None
) -> None:
    model = kind.make(way)
    # DeepSeek's router runs in float32, whatever the network runs in
    close = 1e-4 if way == "grouped_mm" or kind.name == "DeepseekV3" else 1e-8
    plan, dense = low(model), logits(model)
    full = copy.deepcopy(model)
    assert lr.apply_(full, at_rank(plan, "svd")).ran
    assert torch.allclose(logits(full), dense, atol=close)
    done = lr.apply_(model, at_rank(plan, "pivoted_svd", 2))
    found = logits(model)
    assert not torch.allclose(found, dense, atol=0.01)
    totals = network_totals(model, IDS[:1])
    assert (totals.params, totals.macs) == (done.totals.params, done.totals.macs)
    trained = logits(model.train())
    assert torch.allclose(trained, found, atol=close)
    trained.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    if way != "eager":
        model.set_experts_implementation("eager")  # type: ignore[operator]
        assert torch.allclose(logits(model), found, atol=1e-4)


@EACH
def test_a_mixture_is_planned_by_the_loss_of_its_tokens(kind: ExpertKind) -> None:
    model = kind.make()
    dense = logits(model)
    done = lr.apply_(model, low(model, "fisher"))
    assert any("stacks" in name for name in done.layers)
    assert 0 < (logits(model) - dense).norm() < dense.norm()


@EACH
def test_a_factorized_mixture_is_saved_copied_and_made_dense_again(
    kind: ExpertKind, tmp_path: Path
) -> None:
    model = kind.make()
    before = model.state_dict()
    lr.apply_(model, at_rank(low(model), "pivoted_svd", 1))
    found = logits(model)
    lr.save(model, tmp_path)
    assert torch.equal(logits(lr.load_(kind.make(), tmp_path)), found)
    assert torch.equal(logits(copy.deepcopy(model)), found)
    assert torch.equal(logits(pickle.loads(pickle.dumps(model))), found)
    lr.to_dense_(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[key].shape == before[key].shape for key in before)
    assert [type(m) for m in model.modules()] == [type(m) for m in kind.make().modules()]
    assert torch.allclose(logits(model), found, atol=1e-4)


def test_a_failed_apply_leaves_the_experts_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Routed().double()
    state, weight = list(model.state_dict()), model.experts.weight
    plan = lr.plan(model, lr.Fixed(2), vectors(4))
    forward = Experts.forward

    def picky(self: Experts, x: Tensor, chosen: Tensor) -> Tensor:
        if not isinstance(self.weight, nn.Parameter):
            raise TypeError("wants a parameter")
        return forward(self, x, chosen)

    monkeypatch.setattr(Experts, "forward", picky)
    with pytest.raises(lr.LowRankError, match=r"experts\.stacks\.weight"):
        lr.apply_(model, plan)
    assert type(model.experts) is Experts
    assert model.experts.weight is weight
    assert list(model.state_dict()) == state


def moments_by_hand(model: Routed, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(positions, E[xxᵀ] of each expert, Σggᵀ of each expert a unit)."""
    groups, inputs, outputs = model.experts.weight.shape
    chosen = (x[:, 0] * groups).long()
    made = torch.stack([row @ model.experts.weight[c] for row, c in zip(x, chosen, strict=True)])
    made = made.detach().requires_grad_()
    predicted = model.head(torch.tanh(made))
    loss = Classification().sampled_loss(predicted, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, made)
    counts = torch.zeros(groups, dtype=torch.float64)
    a = torch.zeros(groups, inputs, inputs, dtype=torch.float64)
    g = torch.zeros(groups, outputs, outputs, dtype=torch.float64)
    for row, slope, c in zip(x, gradient, chosen, strict=True):
        counts[c] += 1
        a[c] += torch.outer(row, row)
        g[c] += torch.outer(slope, slope) / len(x)
    return counts, a / counts[:, None, None], g


def test_moments_are_of_the_tokens_that_were_routed_to_each_expert() -> None:
    torch.manual_seed(0)
    model, x = Routed().double(), vectors(200)
    counts, a, g = moments_by_hand(model, x)
    found = collect_moments(model, [x], survey(model, x[:1]).modules, gradients=True)
    one = found["experts.stacks.weight"]
    assert one.outputs is not None
    assert one.counts is not None
    assert torch.equal(one.counts.double(), counts)
    share = counts / counts.sum()
    assert torch.allclose(one.inputs, a * share[:, None, None])
    # The product of both is the loss per unit, as of a layer that is alone.
    assert torch.allclose(one.outputs * share[:, None, None], g)


def test_the_summed_error_of_all_experts_is_the_mean_squared_error_of_their_outputs() -> None:
    torch.manual_seed(0)
    model, x = Routed().double(), vectors(300)
    plan = lr.plan(
        model, lr.Fixed(3), calibration=[x], held_out=[], metric="input", methods=[lr.SVD()],
        exclude=["head"],
    )  # fmt: skip
    outputs: list[Tensor] = []
    model.experts.register_forward_hook(lambda _, __, output: outputs.append(output))
    model(x)
    lr.apply_(model, plan)
    model(x)
    assert plan.analysis is not None
    expected = plan.expected.layers["experts.stacks.weight"].relative_error
    norm = plan.analysis.spectra["experts.stacks.weight"].squared_norm
    measured = (outputs[-1] - outputs[0]).square().sum(1).mean()
    assert measured.item() == pytest.approx(expected**2 * norm, rel=1e-4)


@pytest.mark.parametrize("metric", ["input", "fisher"])
def test_an_expert_without_tokens_is_neither_free_nor_nan(metric: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Routed(4).double(), vectors(200)
    x[:, 0] *= 0.74  # the last of the four experts gets none
    plan = lr.plan(
        model, lr.Fixed(2), calibration=[x], held_out=[], metric=metric, exclude=["head"],  # type: ignore[arg-type]
        methods=[lr.SVD()],
    )  # fmt: skip
    assert plan.analysis is not None
    told = "1 of 4 experts (3) read fewer tokens than they have inputs"
    assert told in plan.layers["experts.stacks.weight"].why
    save_analysis(tmp_path, plan.analysis)
    assert told in lr.load_analysis(tmp_path).note("experts.stacks.weight")
    spectra = plan.analysis.metrics["experts.stacks.weight"]
    energy = spectra.whiten(torch.ones(4 * 5, 6)).reshape(4, -1).norm(dim=1)
    assert 0 < energy[3] < 0.2 * energy[:3].min()
    dense = model.experts.weight.detach().clone()
    lr.apply_(model, plan)
    close = (model.experts.weight - dense).flatten(1).norm(dim=1) / dense.flatten(1).norm(dim=1)
    assert torch.isfinite(close).all()
    assert close[3] < 1, "it is approximated, in the metric of the others"


def test_an_expert_without_gradients_counts_as_a_single_token() -> None:
    torch.manual_seed(0)
    model, x = Routed(3).double(), vectors(300)
    model.experts.weight.data[1, 1:] = 0.0
    model.experts.weight.data[1, 0] = 1e9  # where tanh is flat
    found = collect_moments(model, [x], survey(model, x[:1]).modules, gradients=True)
    outputs = found["experts.stacks.weight"].outputs
    assert outputs is not None
    energy = outputs.diagonal(dim1=1, dim2=2).sum(1)
    assert 0 < energy[1] < 0.05 * energy[0]


@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
def test_planted_experts_of_low_rank_are_found_exactly(metric: str) -> None:
    torch.manual_seed(0)
    model, x = Routed(4, 12, 10).double(), vectors(300, 12)
    planted = torch.randn(4, 12, 2) @ torch.randn(4, 2, 10)
    model.experts.weight.data.copy_(planted)
    dense = model(x)
    plan = lr.plan(
        model, lr.Error(1e-6), calibration=[x], held_out=[], metric=metric,  # type: ignore[arg-type]
        exclude=["head"],
    )  # fmt: skip
    assert plan.layers["experts.stacks.weight"].ranks == (2,)
    lr.apply_(model, plan)
    assert torch.allclose(model(x), dense, atol=1e-6)


def test_positions_of_experts_are_those_that_were_routed() -> None:
    model, x = Routed(groups=3, inputs=6, outputs=5).double(), vectors(1)
    found = survey(model, x)
    assert found.targets["experts.stacks.weight"].macs == 6 * 5
    assert found.totals.macs == 6 * 5 + 5 * 4


def test_weights_that_a_forward_reads_by_hand_are_targets(nothing_multiplied_out: None) -> None:
    torch.manual_seed(0)
    model = ByHand().double()
    called = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 10, bias=False), nn.Tanh())
    called = called.append(nn.Linear(10, 4)).double()
    with torch.no_grad():
        for layer, weight in ((0, model.qkv.weight), (2, model.middle.T), (4, model.out.weight)):
            called[layer].weight.copy_(weight)
        called[0].bias.copy_(model.offset)
        called[4].bias.copy_(model.out.bias)
    x = torch.randn(64, 8, dtype=torch.float64)
    found, known = survey(model, x[:1]), survey(called, x[:1])
    assert found.totals.macs == known.totals.macs
    names = ["qkv", "stacks.middle", "out"]
    assert list(found.targets) == ["qkv", "out", "stacks.middle"]
    here = collect_moments(model, [x], found.modules, gradients=True)
    there = collect_moments(called, [x], known.modules, gradients=True)
    for name, other in zip(names, there, strict=True):
        assert torch.allclose(here[name].inputs, there[other].inputs)
        one, two = here[name].outputs, there[other].outputs
        assert one is not None and two is not None and torch.allclose(one, two)
    plan = lr.plan(model, lr.Fixed(4), calibration=[x], held_out=[])
    dense = model(x)
    lr.apply_(model, at_rank(plan, "svd"))
    assert torch.allclose(model(x), dense, atol=1e-8)
    model.train()(x).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_any_other_use_of_a_factorized_weight_multiplies_it_out_with_gradients() -> None:
    torch.manual_seed(0)
    model, x = Routed().double(), vectors(8)
    lr.apply_(model, at_rank(lr.plan(model, lr.Fixed(2), x[:1], exclude=["head"]), "svd", 1))
    factors = list(model.experts.stacks.parameters())  # type: ignore[union-attr]
    first, last = factors
    expected = torch.einsum("gor,gri->gio", last, first).square().sum()
    expected.backward()
    slopes = [factor.grad.clone() for factor in factors]  # type: ignore[union-attr]
    for use in (lambda w: w.square().sum(), lambda w: _Squared.apply(w).sum()):  # type: ignore[no-untyped-call]
        model.zero_grad()
        found = use(model.experts.weight)
        found.backward()
        assert torch.allclose(found, expected)
        assert all(torch.allclose(f.grad, s) for f, s in zip(factors, slopes, strict=True))


class _Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, weight: Tensor) -> Tensor:
        ctx.weight = weight * 1  # type: ignore[attr-defined]
        return weight.square()

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * ctx.weight * slope  # type: ignore[attr-defined,no-any-return]


class Otherwise(nn.Module):
    """Adds one parameter, multiplies by the transpose of another too."""

    def __init__(self) -> None:
        super().__init__()
        self.added, self.both = nn.Parameter(torch.randn(1, 4, 8)), nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh((x[:, None] + self.added).mean(1) @ self.both) @ self.both.T
        found: Tensor = self.head(x)
        return found


def test_what_is_read_in_another_way_is_no_target() -> None:
    assert list(survey(Otherwise(), torch.randn(1, 8)).targets) == ["head"]


def test_bfloat16_and_frozen_experts_stay_so() -> None:
    model = Routed().to(torch.bfloat16)
    model.experts.weight.requires_grad_(False)
    x = vectors(8).bfloat16()
    lr.apply_(model, lr.plan(model, lr.Fixed(2), x[:1], exclude=["head"]))
    held = list(model.experts.parameters())
    assert {p.dtype for p in held} == {torch.bfloat16}
    assert not any(p.requires_grad for p in held)
    assert model(x).dtype == torch.bfloat16
    assert (model.experts.weight.dtype, tuple(model.experts.weight.shape)) == (
        torch.bfloat16,
        (3, 6, 5),
    )


def test_a_network_with_stacks_is_not_certified_but_its_layers_are() -> None:
    torch.manual_seed(0)
    model, x = Routed().double(), vectors(8)
    dense = copy.deepcopy(model)
    done = lr.apply_(model, lr.plan(model, lr.Fixed(2), x[:1]))
    found = lr.certify(dense, model, x, list(done.layers))
    assert list(found.layers) == ["head"]
    assert not found.network.certified
    assert "experts.stacks.weight is no layer" in str(found.network.reason)


def test_adapters_of_a_stack_share_what_they_read() -> None:
    torch.manual_seed(0)
    model, x = Routed(4, 16, 12).double(), vectors(8, 16)
    plan = lr.plan(model, lr.Fixed(6), x[:1], methods=[lr.SVD()], exclude=["head"])
    lr.apply_(model, plan)
    found, keys = model(x), list(model.state_dict())
    adapted = lr.attach_(model, lr.AdapterOptions(rank=2), 0)
    assert adapted == ["experts.stacks.weight.0", "experts.stacks.weight.1"]
    shapes = [tuple(p.shape) for n, p in model.named_parameters() if n.endswith(("left", "right"))]
    assert shapes == [(4 * 6, 2), (2, 16), (4 * 12, 2), (2, 6)]
    assert torch.allclose(model(x), found)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    lr.merge_(model)
    assert torch.allclose(model(x), found)
    assert list(model.state_dict()) == keys


def test_compiled_the_experts_run_by_eager_torch() -> None:
    model, x = Routed().double(), vectors(8)
    lr.apply_(model, lr.plan(model, lr.Fixed(2), x[:1], exclude=["head"]))
    found = torch.compile(model, backend="eager")(x)
    assert torch.allclose(found, model(x))


class Added(nn.Module):
    """Products that add a bias at once, of a matrix and of one matrix a group."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.offset = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(12))
        self.many, self.biases = nn.Parameter(torch.randn(3, 4, 6)), nn.Parameter(torch.randn(3, 6))
        self.head = nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.addmm(self.offset, x, self.one).tanh().view(-1, 3, 4).transpose(0, 1)
        out = torch.baddbmm(self.biases[:, None], hidden, self.many)
        found: Tensor = self.head(out.transpose(0, 1).flatten(1).tanh())
        return found


def test_products_that_add_a_bias_are_understood(nothing_multiplied_out: None) -> None:
    torch.manual_seed(0)
    model, x = Added().double(), torch.randn(64, 8, dtype=torch.float64)
    with torch.no_grad():  # of low rank, so that factors of that rank give the same
        model.one.copy_(torch.randn(8, 3).double() @ torch.randn(3, 12).double())
        model.many.copy_(torch.randn(3, 4, 1).double() @ torch.randn(3, 1, 6).double())
    dense = model(x)
    plan = lr.plan(model, lr.Error(1e-6), calibration=[x], held_out=[], exclude=["head"])
    assert {n: p.ranks for n, p in plan.layers.items()} == {"stacks.one": (3,), "stacks.many": (1,)}
    lr.apply_(model, plan)
    assert torch.allclose(model(x), dense, atol=1e-6)


@pytest.mark.parametrize(
    ("equation", "shape", "known"),
    [
        ("bti,io->bto", (8, 12), True),
        ("...i, oi -> ...o", (12, 8), True),
        ("bti,io->bot", (8, 12), False),
        ("bti,to->bio", (5, 12), False),
        ("bti,ti->bti", (5, 8), False),
    ],
)
def test_products_that_einsum_writes_are_understood(
    equation: str, shape: tuple[int, int], known: bool, nothing_multiplied_out: None
) -> None:
    """A matrix of any other meaning is left alone."""
    x = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(shape[0], 2) @ torch.randn(2, shape[1]))
            self.head = nn.Linear(torch.einsum(equation, x, self.weight.double()).shape[-1], 4)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(torch.einsum(equation, x, self.weight).tanh())
            return found

    model = Written().double()
    assert ("stacks.weight" in survey(model, x[:1]).targets) == known
    if known:
        dense = model(x)
        plan = lr.plan(model, lr.Error(1e-6), x[:1], metric="weight", exclude=["head"])
        assert plan.layers["stacks.weight"].ranks == (2,)
        lr.apply_(model, plan)
        assert torch.allclose(model(x), dense, atol=1e-6)


@pytest.mark.parametrize("method", [lr.SVD(), lr.PivotedSVD()], ids=lambda method: method.name)
def test_products_with_all_experts_at_once_run_by_their_factors(
    method: lr.SVD | lr.PivotedSVD, nothing_multiplied_out: None
) -> None:
    torch.manual_seed(0)
    model, x = AllAtOnce().double(), vectors(12)
    with torch.no_grad():  # of rank 2, so that factors of that rank give the same
        for stack in (model.up, model.down):
            stack.copy_(stack[:, :, :2] @ torch.randn(3, 2, 16).double())
    dense = model(x)
    plan = lr.plan(model, lr.Fixed(2), calibration=[x], methods=[method], exclude=["router"])
    assert {n: p.ranks for n, p in plan.layers.items()} == {"stacks.up": (2,), "stacks.down": (2,)}
    done = lr.apply_(model, plan)
    assert torch.allclose(model(x), dense)
    assert network_totals(model, x[:1]) == done.totals
    assert plan.expected.dense.macs == 6 * 3 + 3 * 16 * (6 + 4), "each expert reads each vector"
