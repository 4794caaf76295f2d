"""Spectra and factors of a random network in one process and in several, each of one thread:
seconds and how many times as fast, a Markdown table on stdout.

    python -m benchmarks.executors [--layers 18] [--sizes 1024 1280 1536] [--processes 2]

The two ways take turns in one run, and the least seconds of each count. Numbers go through a
folder, as in the chain. The processes have started before; what that takes is told apart.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from joblib.externals.loky import ProcessPoolExecutor
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank.network.executing import Executor, each

STEPS = ("analyze", "apply_")


def network(layers: int, sizes: Sequence[int]) -> nn.Module:
    """Linear layers whose widths are the sizes in turn."""
    torch.manual_seed(0)
    widths = [sizes[n % len(sizes)] for n in range(layers + 1)]
    return nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(widths)))


def seconds_of(net: nn.Module, plan: lr.Plan, executor: Executor | None) -> list[float]:
    """What each step takes."""
    x, chosen = torch.zeros(1, net[0].in_features), lr.AnalysisOptions(metric="weight")
    changed, found = copy.deepcopy(net), []
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        analysis = lr.analyze(
            net, x, chosen=chosen, spill=Path(folder, "spectra"), executor=executor
        )
        found.append(time.perf_counter() - start)
        start = time.perf_counter()
        lr.apply_(changed, plan, analysis, spill=Path(folder, "factors"), executor=executor)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 1280, 1536])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = network(options.layers, options.sizes)
    plan = lr.plan(net, lr.Fixed(ranks=0.3), torch.zeros(1, net[0].in_features))
    with ProcessPoolExecutor(options.processes) as pool:
        start = time.perf_counter()
        list(each(pool, torch.zeros, [(1,)] * options.processes))
        print(f"{options.processes} processes start in {time.perf_counter() - start:.1f} s\n")
        pairs = [
            (seconds_of(net, plan, None), seconds_of(net, plan, pool))
            for _ in range(options.repetitions)
        ]
    print(
        f"| {options.layers} layers | 1 process | {options.processes} processes | times as fast |"
    )
    print("|---" * 4 + "|")
    for index, step in enumerate(STEPS):
        alone, shared = (min(pair[way][index] for pair in pairs) for way in (0, 1))
        print(f"| {step} | {alone:.1f} s | {shared:.1f} s | {alone / shared:.2f} |")


if __name__ == "__main__":
    main()
