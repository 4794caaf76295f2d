"""Speed of a run: its dense network beside the compressed and the repaired one, side by side.

    python -m benchmarks.speed WORKSPACE [--workloads batch decode] [--examples 1] [--threads 2]

WORKSPACE is the folder that a run prints. A batch of test examples (of 512 tokens each where the
preset says so), or one further token of one text with cached keys. The networks take turns, each in
every form that it has, and each counts in its fastest one: the sum of the shortest times of its
pieces, which other work of the machine changes least. A quiet machine is needed all the same; with
one thread its own processor time counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from pipeline.data.files import load_split
from pipeline.evaluation.latency import forms
from pipeline.lowrank.forms.files import load
from pipeline.lowrank.planning.timing.measuring import Stopwatch, take_turns
from pipeline.lowrank.planning.timing.workload import Workload, WorkloadKind

FOLDERS = {"dense": "baseline", "compressed": "compressed", "repaired": "fine_tuned"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--workloads", nargs="+", choices=get_args(WorkloadKind), default=["batch"])
    parser.add_argument("--examples", type=int, default=1, help="of the batch")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    out = chosen.workspace / "out"
    batch, _ = load_split(out / "data", "test").batch(slice(0, chosen.examples))
    networks = {n: load(out / f).eval() for n, f in FOLDERS.items() if (out / f).is_dir()}
    table = Table("workload", "network", "form", "milliseconds", "faster")
    for kind in chosen.workloads:
        workload = Workload(workload=kind, workload_examples=chosen.examples)
        found = measured(networks, partial(workload.run, batch=batch))
        dense, _ = found["dense"]
        for name, (time, form) in found.items():
            table.add_row(str(workload), name, form, f"{time:.2f}", f"{dense / time:.2f}×")
    Console().print(table)


def measured(
    networks: Mapping[str, nn.Module], run_of: Callable[[nn.Module], Callable[[], object]]
) -> dict[str, tuple[float, str]]:
    """{network: (milliseconds, the form in which it takes them)}, each in its fastest form.

    run_of: one call of a network, ready to be repeated.
    """
    watches: dict[tuple[str, str], Stopwatch] = {}
    with torch.inference_mode():
        for name, network in networks.items():
            for form, one in forms(network).items():
                pieces = {n: m for n, m in one.named_modules() if not list(m.children())}
                watches[name, form] = Stopwatch(run_of(one), pieces)
    take_turns(list(watches.values()))
    return {
        name: min((w.whole / 1e6, form) for (other, form), w in watches.items() if other == name)
        for name in networks
    }


if __name__ == "__main__":
    main()
