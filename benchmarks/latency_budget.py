"""Speed under a budget of latency: what plans expect, beside what their networks take.

python -m benchmarks.latency_budget [--networks NAME …] [--budgets 0.5 …] [--threads N]

Networks with random weights (time does not depend on them): the ResNets of the digits and of
Fashion-MNIST, and timm's ResNet-18 at 32×32 pixels (where timm is installed, see the zoo). Dense
and compressed networks take turns, in each form that they have, and count in their fastest one: the
sum of the shortest times of their pieces. With one thread its own processor time counts.
The times of layers are kept in the user's cache folder ($LOWRANK_CACHE).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.speed import measured
from benchmarks.zoo.vision import import_vision
from pipeline import lowrank as lr
from pipeline.models.resnet import ResNet

_BATCH = 32
METHODS = {
    "factors": (lr.PivotedTucker2(),),
    "widths": (lr.Interpolative(),),
    "both": (lr.PivotedTucker2(), lr.Interpolative()),
}


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of one image


def _digits() -> nn.Module:
    return ResNet(widths=(24, 48), blocks=(1, 1), hidden=128, pool=2)


def _fashion() -> nn.Module:
    return ResNet(widths=(16, 64, 128), blocks=(1, 1, 1), hidden=128, pool=1)


def _resnet18() -> nn.Module:
    import_vision()
    import timm

    network: nn.Module = timm.create_model("resnet18", num_classes=10)
    return network


CASES = {
    "digits_resnet": Case(_digits, (1, 8, 8)),
    "fashion_resnet": Case(_fashion, (1, 28, 28)),
    "resnet18": Case(_resnet18, (3, 32, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.8, 0.5])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    table = Table("network", "methods", "budget", "expected", "measured", "faster", "parameters")
    for name in chosen.networks:
        network, batch = _made(CASES[name])
        for methods in chosen.methods:
            for budget in chosen.budgets:
                row = _row(network, batch, methods, budget)
                table.add_row(name, methods, f"{budget:g}", *row)
                print(name, methods, budget, *row, flush=True)
    Console().print(table)


def _made(case: Case) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = case.make().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # some start at 0, and nothing passes through
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network, torch.randn(_BATCH, *case.shape)


def _row(network: nn.Module, batch: Tensor, methods: str, budget: float) -> tuple[str, ...]:
    """Expected and measured fraction of the time, speed-up, and fraction of the parameters."""
    try:
        plan = lr.plan(
            network,
            lr.Budget(latency=budget),
            calibration=[batch],
            held_out=[],
            metric="weight",
            methods=METHODS[methods],
        )
    except lr.LowRankError as error:
        least = str(error).partition("keeps ")[2].partition(";")[0]
        return "—", "—", f"at least {least}", "—"
    expected = plan.expected.latency
    assert expected is not None
    small = lr.apply_(copy.deepcopy(network), plan, certified=False).network
    found = measured({"small": small, "dense": network}, lambda one: partial(one, batch))
    share = found["small"][0] / found["dense"][0]
    kept = plan.expected.planned.params / plan.expected.dense.params
    return f"{expected.kept:.3f}", f"{share:.3f}", f"{1 / share:.2f}×", f"{kept:.0%}"


if __name__ == "__main__":
    main()
