"""Second moments against what they are by definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.lowrank.analysis.collecting import collect_moments
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import evenly
from pipeline.lowrank.network.same_padding import Conv2dSame
from pipeline.lowrank.network.targets import dense_weight
from pipeline.lowrank.tasks import TASKS

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "asymmetric": lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), dilation=(1, 2), bias=False),
    "grouped, reflect": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="reflect"),
    "same": lambda: nn.Conv2d(4, 6, (2, 3), padding="same"),
    "1d": lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2, groups=2),
    "3d": lambda: nn.Conv3d(4, 6, 2),
    "same, strided": lambda: Conv2dSame(4, 6, (2, 3), (2, 3), dilation=(1, 2)),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (2, 0), (1, 0)),
    "transposed, grouped": lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, dilation=2, groups=2),
    "transposed, 3d": lambda: nn.ConvTranspose3d(4, 6, 2, 3, bias=False),
}


def examples(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_input_moments_of_a_convolution_give_its_output_energy(name: str) -> None:
    """tr(W·A·Wᵀ) is the mean squared output, whatever the geometry; W·E[x] the mean output."""
    torch.manual_seed(0)
    layer = CONVOLUTIONS[name]().double()
    x = examples(5, 4, *[7] * (layer.weight.dim() - 2))
    moments = collect_moments(layer, [x[:2], x[2:]], {"": layer}, gradients=False)[""]
    weight = dense_weight(layer).unflatten(0, (layer.groups, -1)).flatten(2)
    bias = layer.bias if layer.bias is not None else torch.zeros(6).double()
    output = (layer(x) - bias.view(-1, *[1] * (x.dim() - 2))).detach()
    energy = torch.einsum("gon,gnm,gom->", weight, moments.inputs, weight)
    assert energy.item() == pytest.approx(output.square().sum(1).mean().item(), rel=1e-12)
    mean = torch.einsum("gon,gn->go", weight, moments.mean).flatten()
    assert torch.allclose(mean, output.transpose(0, 1).flatten(1).mean(1), atol=1e-12)
    assert moments.outputs is None and moments.positions == output[:, 0].numel()


@pytest.mark.parametrize("width", [1023, 1024, 1300])
def test_wide_moments_are_whole_and_symmetric(width: int) -> None:
    layer, x = nn.Linear(width, 2).double(), examples(40, width)
    moments = collect_moments(layer, [x[:30], x[30:]], {"": layer}, gradients=False)[""]
    assert torch.allclose(moments.inputs[0], x.T @ x / 40, rtol=0, atol=1e-13)
    assert torch.allclose(moments.inputs[0], moments.inputs[0].T, rtol=0, atol=1e-15)


def test_further_batches_count_for_the_inputs_alone() -> None:
    torch.manual_seed(0)
    layer, (x, more) = nn.Linear(6, 4).double(), (examples(50, 6), examples(70, 6, seed=1))
    alone = collect_moments(layer, [x], {"": layer}, gradients=True)[""]
    found = collect_moments(layer, [x], {"": layer}, gradients=True, further=[more])[""]
    both = torch.cat([x, more])
    assert torch.allclose(found.inputs[0], both.T @ both / 120, atol=1e-14)
    assert torch.allclose(found.mean[0], both.mean(0), atol=1e-14)
    assert found.positions == 120 and found.outputs is not None and alone.outputs is not None
    assert torch.equal(found.outputs, alone.outputs)
    with torch.no_grad():  # whatever the caller's mode
        again = collect_moments(layer, [x], {"": layer}, gradients=True, further=[more])[""]
    assert again.outputs is not None and torch.equal(again.outputs, alone.outputs)


def test_output_moments_are_the_fisher_matrix_of_a_softmax() -> None:
    """For logits = W·x, E[g·gᵀ] = E[diag(p) − p·pᵀ]; labels are drawn from p itself."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).double()
    x = examples(40_000, 6)
    moments = collect_moments(layer, list(x.split(8_000)), {"": layer}, gradients=True, seed=1)[""]
    p = layer(x).softmax(1).detach()
    exact = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    assert moments.outputs is not None
    # 40,000 samples: a standard error of about 0.5 %.
    assert torch.linalg.norm(moments.outputs[0] - exact) < 0.02 * torch.linalg.norm(exact)
    assert torch.allclose(moments.inputs[0], x.T @ x / len(x), atol=1e-12)


@pytest.mark.parametrize("kind", TASKS)
def test_half_the_fisher_norm_of_a_small_change_is_the_loss_it_costs(kind: str) -> None:
    """Nats of KL for classes and labels, 1 − cosine for embeddings, half of the lost share of the
    variance for numbers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    if kind == "segmentation":
        net.append(nn.Unflatten(1, (3, 1)))
    x = examples(60_000, 5)
    moments = collect_moments(net, [x], {"2": net[2]}, gradients=True, task=TASKS[kind])["2"]
    change = 0.05 * examples(3, 8, seed=2)
    assert moments.outputs is not None
    predicted = 0.5 * torch.einsum(
        "op,pn,nm,om->", moments.outputs[0], change, moments.inputs[0], change
    )
    measure = Divergence(net, [x], TASKS[kind])
    assert measure.of(net) == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        before = net(x).flatten(1)
        net[2].weight += change
        after = net(x).flatten(1)
    if kind in ("regression", "reconstruction", "custom"):
        apart = (after - before).square().sum(1).mean() / 2
        measured = apart / before.var(0, correction=0).sum()
    elif kind == "multilabel":
        p, q = before.sigmoid(), after.sigmoid()
        measured = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1).mean()
    elif kind != "encoder":
        rows = after.log_softmax(1), before.log_softmax(1)
        measured = functional.kl_div(*rows, log_target=True, reduction="batchmean")
    else:
        measured = 1 - functional.cosine_similarity(after, before).mean()
    assert measure.of(net) == pytest.approx(measured.item(), rel=1e-3)
    # The Kronecker factors take x and g as independent; here that costs a tenth or so of a KL,
    # and more where short vectors turn more easily than long ones.
    assert predicted.item() == pytest.approx(measured.item(), rel=0.3)


class Tokens(nn.Module):
    """A language model in small: embedding, two projections of one input, head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.table(input_ids)
        logits: torch.Tensor = self.head(torch.tanh(self.query(x) * self.key(x)))
        return logits.transpose(1, 2)  # classes in dimension 1, as cross-entropy reads them


def token_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 11, (4, 9), generator=generator)
    mask = torch.ones(4, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    mask[3, 2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_padding_counts_nowhere() -> None:
    torch.manual_seed(0)
    net = Tokens().double()
    batch = token_batch()
    targets = {"query": net.query, "head": net.head}
    moments = collect_moments(net, [batch], targets, gradients=True)
    seen = net.table(batch["input_ids"])[batch["attention_mask"].bool()].detach()
    assert moments["query"].positions == len(seen) == int(batch["attention_mask"].sum())
    assert torch.allclose(moments["query"].inputs[0], seen.T @ seen / len(seen), atol=1e-12)
    changed = batch | {
        "input_ids": torch.where(batch["attention_mask"] == 0, 7, batch["input_ids"])
    }
    again = collect_moments(net, [changed], targets, gradients=True)
    for name in targets:
        assert torch.equal(moments[name].inputs, again[name].inputs)
        assert torch.equal(moments[name].outputs, again[name].outputs)  # type: ignore[arg-type]
        assert moments[name].outputs.abs().max() > 0  # type: ignore[union-attr]


def test_blocks_of_targets_give_the_same_moments_as_one_pass() -> None:
    torch.manual_seed(0)
    net = Tokens().double()
    targets = {"head": net.head, "query": net.query, "key": net.key}
    whole = collect_moments(net, [token_batch()], targets, gradients=True)
    # The head alone: 8 bytes for each of 6² + 11² sums, and 16 · 11² for the work on the larger.
    limit = 8 * (6**2 + 11**2) + 16 * 11**2
    parts = collect_moments(net, [token_batch()], targets, gradients=True, memory_limit=limit)
    assert list(whole) == list(parts) == list(targets)
    for name in targets:
        assert torch.equal(whole[name].inputs, parts[name].inputs)
        assert torch.equal(whole[name].outputs, parts[name].outputs)  # type: ignore[arg-type]
    assert torch.equal(whole["query"].inputs, whole["key"].inputs), "they read one input"
    with pytest.raises(LowRankError, match=r"^layer 'head': its sums take .*memory_gib"):
        collect_moments(net, [token_batch()], targets, gradients=True, memory_limit=limit - 1)


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten())
    net.append(nn.Linear(3 * 16, 4)).train()
    net[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    targets = {"0": net[0], "4": net[4]}
    moments = collect_moments(net, [examples(6, 1, 6, 6).float()], targets, gradients=True)
    assert moments["0"].inputs.dtype == torch.float64
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and not net[0].weight.requires_grad and net[4].weight.requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_what_cannot_be_collected_is_an_error() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(LowRankError, match="calibration set is empty"):
        collect_moments(layer, [], {"": layer}, gradients=False)
    with pytest.raises(LowRankError, match="'idle' is not reached"):
        collect_moments(layer, [torch.ones(1, 3)], {"idle": nn.Linear(2, 2)}, gradients=False)
    with pytest.raises(LowRankError, match="NaN or Inf"):
        collect_moments(layer, [torch.full((1, 3), torch.inf)], {"": layer}, gradients=False)


@pytest.mark.parametrize(
    ("share", "chosen"), [(1.0, [0, 1, 2, 3, 4, 5, 6, 7]), (0.25, [3, 7]), (0.01, [0])]
)
def test_a_share_of_the_batches_is_spread_evenly(share: float, chosen: list[int]) -> None:
    some, others = evenly(range(8), share)
    assert some == chosen and sorted(some + others) == list(range(8))
