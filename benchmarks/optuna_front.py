"""Optuna's front against a grid's with the same number of trials: hypervolume over three seeds.

python -m benchmarks.optuna_front [TRIALS]

Accuracy (to maximise) against parameters (to minimise) on the digits, over the budget (0.08 to
0.9 of the parameters) and the method (four of them): the grid's budgets are evenly spaced, the
search's drawn evenly at first. The volume is that between the front and the reference (accuracy
0, dense parameters), as a fraction of the whole rectangle.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.chain import Tree, make_tree

PARALLEL = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "fabric.threads=1")
METHODS = ("svd", "tucker2", "spatial_svd", "pivoted_tucker2")
Point = tuple[float, float]  # accuracy, parameters


def hypervolume(points: list[Point], dense: float) -> float:
    """Area that the points dominate in [0, 1] × [0, dense], divided by `dense`."""
    area, reached = 0.0, 0.0
    for accuracy, params in sorted(points, key=lambda p: p[1]):
        if accuracy > reached:
            area += (accuracy - reached) * max(0.0, dense - params)
            reached = accuracy
    return area / dense


def sweep(tree: Tree, name: str, *arguments: str) -> list[Point]:
    objectives = "objectives=[accuracy,params]"
    folder = f"hydra.sweep.dir={name}"
    methods = f"methods={','.join(METHODS)}"
    tree.pipeline("-m", *PARALLEL, methods, objectives, folder, *arguments)
    jobs = json.loads((tree.path / name / "sweep.json").read_text())["jobs"]
    values = [job["objectives"] for job in jobs if job["state"] == "done"]
    return [(value["accuracy"], value["params"]) for value in values]


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    each = trials // len(METHODS)
    grid = ",".join(f"{0.08 + 0.82 * n / (each - 1):.4f}" for n in range(each))
    with tempfile.TemporaryDirectory() as folder:
        tree = make_tree(Path(folder) / "tree", quick=False)
        for seed in range(3):
            on_grid = sweep(tree, f"grid{seed}", f"seed={seed}", f"rank_select.budget={grid}")
            dense = json.loads((tree.path / f"grid{seed}/0/reports/metrics.json").read_text())
            found = sweep(
                tree,
                f"optuna{seed}",
                f"seed={seed}",
                "hydra/sweeper=front",
                f"hydra.sweeper.n_trials={trials}",
                f"hydra.sweeper.sampler.seed={seed}",
                "rank_select.budget=range(0.08,0.9,0.02)",
            )
            volumes = [hypervolume(points, dense["dense"]["params"]) for points in (on_grid, found)]
            print(f"seed {seed}: grid {volumes[0]:.4f}, Optuna {volumes[1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
