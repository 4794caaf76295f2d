"""Narrower dimensions beside low rank, and both under one budget, on small networks of its own:

    python -m benchmarks.widths                    three seeds, some minutes
    python -m benchmarks.widths --only mixture

An MLP (64-256-256-10) on scikit-learn's digits, whose figure is the test accuracy, and a language
model of three pre-norm blocks with gated MLPs on the characters of this project's pages, whose
figure is KL(dense ‖ compressed) in nats a character on the last tenth of the text; the same with a
mixture of eight experts in place of each MLP, of which each character takes two. Nothing is
trained after compressing. Budgets count the parameters of the targets; of several plans of a budget
the contest takes the one that measures best on held-out data, as the chain does.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.methods import Method
from pipeline.lowrank.tasks import Task

METHODS: dict[str, tuple[Method | lr.Interpolative, ...]] = {
    "pivoted": (lr.PivotedTucker2(),),
    "narrower": (lr.Interpolative(),),
    "both": (lr.PivotedTucker2(), lr.Interpolative()),
}
BUDGETS = (0.7, 0.5, 0.3)
WIDTH, LENGTH = 64, 64


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.down = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return found


class Experts(nn.Module):
    """Eight gated experts in one tensor, as transformers has them."""

    def __init__(self, count: int = 8, inner: int = 3 * WIDTH // 2) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, count, bias=False)
        self.gate_up = nn.Parameter(torch.randn(count, 2 * inner, WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(count, WIDTH, inner) / inner**0.5)

    def forward(self, x: Tensor) -> Tensor:
        shape, x = x.shape, x.flatten(0, -2)
        shares, chosen = self.router(x).topk(2)
        shares, found = shares.softmax(-1), torch.zeros_like(x)
        for index in range(len(self.down)):
            rows, place = (chosen == index).nonzero(as_tuple=True)
            gate, up = functional.linear(x[rows], self.gate_up[index]).chunk(2, -1)
            out = functional.linear(functional.silu(gate) * up, self.down[index])
            found = found.index_add(0, rows, out * shares[rows, place, None])
        return found.view(shape)


class Block(nn.Module):
    def __init__(self, mixture: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = Experts() if mixture else Gated()

    def forward(self, x: Tensor) -> Tensor:
        read = self.norm1(x)
        heads = (m(read).unflatten(-1, (4, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        found: Tensor = x + self.mlp(self.norm2(x))
        return found


class Characters(nn.Module):
    def __init__(self, vocabulary: int, mixture: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block(mixture) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        found: Tensor = self.head(self.norm(self.blocks(x)))
        return found.transpose(1, 2)  # the classes in dimension 1, as the task reads a tensor


def trained(net: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], steps: int) -> nn.Module:
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(steps):
        inputs, labels = batch()
        loss = functional.cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def compare(
    name: str, net: nn.Module, calibration: Sequence[Tensor], task: Task,
    figure: Callable[[nn.Module], float], include: Sequence[str] = ("*",),
) -> None:  # fmt: skip
    print(f"{name}: dense {figure(net):.4f}", flush=True)
    for kept in BUDGETS:
        found = []
        for label, methods in METHODS.items():
            policy = lr.Budget(params=kept, scope="targets")
            try:
                plan = lr.plan(
                    net,
                    policy,
                    calibration=calibration,
                    task=task,
                    methods=methods,
                    include=include,
                )
            except lr.LowRankError:
                found.append(f"{label} out of reach")
                continue
            small = copy.deepcopy(net)
            lr.apply_(small, plan)
            found.append(f"{label} {figure(small):.4f}")
        print(f"  {kept:.2f} kept: {', '.join(found)}", flush=True)


def digits(seed: int) -> None:
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    images, order = images.float() / 16, torch.randperm(len(images))
    train, test = order[:1400], order[1400:]
    layers = (nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    def batch() -> tuple[Tensor, Tensor]:
        chosen = train[torch.randint(len(train), (64,))]
        return images[chosen], labels[chosen]

    def accuracy(net: nn.Module) -> float:
        return float((net(images[test]).argmax(-1) == labels[test]).double().mean())

    net = trained(nn.Sequential(*layers), batch, 500)
    calibration = list(images[train[:512]].split(64))
    compare(f"digits, seed {seed}", net, calibration, lr.tasks.Classification(), accuracy)


def pages(seed: int, *, mixture: bool = False) -> None:
    text = "".join(path.read_text() for path in sorted(Path("docs").glob("*.md")))
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(letter) for letter in text])
    cut = len(ids) * 9 // 10
    train, test = ids[:cut], ids[cut:]

    def windows(count: int, split: Tensor) -> Tensor:
        starts = torch.randint(len(split) - LENGTH - 1, (count,))
        return torch.stack([split[start : start + LENGTH + 1] for start in starts])

    def batch() -> tuple[Tensor, Tensor]:
        drawn = windows(16, train)
        return drawn[:, :-1], drawn[:, 1:]

    net = trained(Characters(len(letters), mixture), batch, 500)
    shown = list(windows(128, train)[:, :-1].split(16))
    task = lr.tasks.CausalLM()
    divergence = Divergence(net, list(windows(32, test)[:, :-1].split(16)), task)
    name = "mixture" if mixture else "pages"
    compare(f"{name}, seed {seed}", net, shown, task, divergence.of, ("blocks.*",))


NETWORKS: dict[str, Callable[[int], None]] = {
    "digits": digits,
    "pages": pages,
    "mixture": partial(pages, mixture=True),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.widths", description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    given = parser.parse_args()
    for seed in range(3):
        torch.manual_seed(seed)
        for name in given.only:
            NETWORKS[name](seed)
