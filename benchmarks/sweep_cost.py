"""What a sweep costs: 20 budgets against one cold run, and a further job that is all cached.

python -m benchmarks.sweep_cost [WORKERS]

Prints wall-clock and CPU seconds (CPU counts all processes, so a busy machine disturbs it less).
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chain import Tree, make_tree

BUDGETS = "rank_select.budget=range(0.1,0.9,0.04)"  # 20 values
PROMISED = 3.0


def timed(tree: Tree, command: Sequence[str]) -> tuple[float, float]:
    """(wall-clock, CPU) seconds of a command and its children."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    tree.run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    chain = (sys.executable, "-m", "pipeline")
    with tempfile.TemporaryDirectory() as folder:
        cold = timed(make_tree(Path(folder) / "cold", quick=False), chain)
        print(f"one cold run        {cold[0]:7.1f} s wall {cold[1]:7.1f} s CPU")
        tree = make_tree(Path(folder) / "sweep", quick=False)
        launcher = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}")
        swept = timed(tree, (*chain, "-m", *launcher, "fabric.threads=1", BUDGETS))
        print(f"20 budgets, cold    {swept[0]:7.1f} s wall {swept[1]:7.1f} s CPU", end="")
        print(f"  = {swept[0] / cold[0]:.2f} × one run (promised: {PROMISED})")

        further = []
        tree.repro()
        status = [timed(tree, ("dvc", "status")) for _ in range(5)]
        for count in (2, 8, 2, 8, 2, 8):
            values = ",".join(str(0.1 + 0.04 * n) for n in range(count))
            took = timed(tree, (*chain, "-m", "fabric.threads=1", f"rank_select.budget={values}"))
            further.append(took)
        for index, name in enumerate(("wall", "CPU")):
            pairs = zip(further[1::2], further[::2], strict=True)
            job = statistics.median((many[index] - few[index]) / 6 for many, few in pairs)
            plain = statistics.median(s[index] for s in status)
            print(
                f"a further cached job {job:.2f} s {name}, dvc status {plain:.2f} s: "
                f"it adds {job - plain:.2f} s (promised: 1.5)"
            )


if __name__ == "__main__":
    main()
