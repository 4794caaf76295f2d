"""The cost of a sweep: 20 budgets against one cold run, and a further job that is all cached.

    python -m benchmarks.sweep_cost [WORKERS]

Prints wall-clock seconds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chain import Tree, make_tree

BUDGETS = "rank_select.budget=range(0.1,0.9,0.04)"  # 20 values
PROMISED = 3.0


def timed(tree: Tree, command: Sequence[str]) -> float:
    """Wall-clock seconds of a command."""
    start = time.monotonic()
    tree.run(*command)
    return time.monotonic() - start


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    chain = (sys.executable, "-m", "pipeline")
    with tempfile.TemporaryDirectory() as folder:
        cold = timed(make_tree(Path(folder) / "cold", quick=False), chain)
        print(f"one cold run        {cold:7.1f} s")
        tree = make_tree(Path(folder) / "sweep", quick=False)
        launcher = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}")
        swept = timed(tree, (*chain, "-m", *launcher, "fabric.threads=1", BUDGETS))
        ratio = swept / cold
        print(f"20 budgets, cold    {swept:7.1f} s = {ratio:.2f} × one run (promised: {PROMISED})")

        further = []
        tree.repro()
        status = [timed(tree, ("dvc", "status")) for _ in range(5)]
        for count in (2, 8, 2, 8, 2, 8):
            values = ",".join(str(0.1 + 0.04 * n) for n in range(count))
            took = timed(tree, (*chain, "-m", "fabric.threads=1", f"rank_select.budget={values}"))
            further.append(took)
        pairs = zip(further[1::2], further[::2], strict=True)
        job = statistics.median((many - few) / 6 for many, few in pairs)
        plain = statistics.median(status)
        print(
            f"a further cached job {job:.2f} s, dvc status {plain:.2f} s: "
            f"it adds {job - plain:.2f} s (promised: 1.5)"
        )


if __name__ == "__main__":
    main()
