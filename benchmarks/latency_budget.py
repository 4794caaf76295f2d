"""Speed under a budget of latency: what plans expect, beside what their networks take.

python -m benchmarks.latency_budget [--networks NAME …] [--budgets 0.5 …] [--threads N]
    [--device cuda --dtype bfloat16] [--workload decode]

Networks with random weights (time does not depend on them): the ResNets of the digits and of
Fashion-MNIST, timm's ResNet-18 at 32×32 pixels (where timm is installed, see the zoo), and, where
it is named, a Llama of four blocks of 2048 channels, on 8 texts of 512 tokens. Dense and compressed
networks take turns, in each form that they have, and count in their fastest one: the sum of the
shortest times of their pieces. With one thread of a CPU its own processor time counts.
The times of layers are kept in the user's cache folder ($LOWRANK_CACHE).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.speed import measured
from benchmarks.zoo.vision import import_vision
from pipeline import lowrank as lr
from pipeline.lowrank.planning.timing.workload import Workload, WorkloadKind
from pipeline.models.resnet import ResNet

_BATCH, _VOCABULARY = 32, 8192
METHODS = {
    "factors": (lr.PivotedTucker2(),),
    "widths": (lr.Interpolative(),),
    "both": (lr.PivotedTucker2(), lr.Interpolative()),
}


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of one image, or (tokens,) of a text
    examples: int = _BATCH


def _digits() -> nn.Module:
    return ResNet(widths=(24, 48), blocks=(1, 1), hidden=128, pool=2)


def _fashion() -> nn.Module:
    return ResNet(widths=(16, 64, 128), blocks=(1, 1, 1), hidden=128, pool=1)


def _resnet18() -> nn.Module:
    import_vision()
    import timm

    network: nn.Module = timm.create_model("resnet18", num_classes=10)
    return network


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=4, num_attention_heads=16,
        vocab_size=_VOCABULARY, max_position_embeddings=1024,
    )  # fmt: skip
    network: nn.Module = LlamaForCausalLM(config)
    return network


CASES = {
    "digits_resnet": Case(_digits, (1, 8, 8)),
    "fashion_resnet": Case(_fashion, (1, 28, 28)),
    "resnet18": Case(_resnet18, (3, 32, 32)),
    "llama": Case(_llama, (512,), 8),
}
_SMALL = ("digits_resnet", "fashion_resnet", "resnet18")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=_SMALL)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.8, 0.5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--workload", choices=get_args(WorkloadKind), default="batch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    table = Table("network", "methods", "budget", "expected", "measured", "faster", "parameters")
    for name in chosen.networks:
        network, batch = _made(CASES[name])
        network = network.to(chosen.device, getattr(torch, chosen.dtype))
        workload = Workload(workload=chosen.workload, workload_examples=len(batch))
        if batch.is_floating_point():
            batch = batch.to(getattr(torch, chosen.dtype))
        for methods in chosen.methods:
            for budget in chosen.budgets:
                row = _row(network, batch, methods, budget, workload)
                table.add_row(name, methods, f"{budget:g}", *row)
                print(name, methods, budget, *row, flush=True)
    Console().print(table)


def _made(case: Case) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = case.make().eval()
    sizes = (case.examples, *case.shape)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # some start at 0, and nothing passes through
            nn.init.uniform_(module.weight, 0.5, 1.5)
    is_text = len(case.shape) == 1
    return network, torch.randint(_VOCABULARY, sizes) if is_text else torch.randn(sizes)


def _row(
    network: nn.Module, batch: Tensor, methods: str, budget: float, workload: Workload
) -> tuple[str, ...]:
    """Expected and measured fraction of the time, speed-up, and fraction of the parameters."""
    try:
        plan = lr.plan(
            network,
            lr.Budget(latency=budget),
            calibration=[batch],
            held_out=[],
            task="classification" if batch.is_floating_point() else "causal_lm",
            include=["*"] if batch.is_floating_point() else ["model.layers.*"],
            metric="weight",
            methods=METHODS[methods],
            workload=workload,
        )
    except lr.LowRankError as error:
        least = str(error).partition("keeps ")[2].partition(";")[0]
        return "—", "—", f"at least {least}", "—"
    expected = plan.expected.latency
    assert expected is not None
    small = lr.apply_(copy.deepcopy(network), plan, certified=False).network
    found = measured({"small": small, "dense": network}, partial(workload.run, batch=batch))
    share = found["small"][0] / found["dense"][0]
    kept = plan.expected.planned.params / plan.expected.dense.params
    return f"{expected.kept:.3f}", f"{share:.3f}", f"{1 / share:.2f}×", f"{kept:.0%}"


if __name__ == "__main__":
    main()
