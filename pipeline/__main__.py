"""python -m pipeline [-m] [GROUP=OPTION | KEY=VALUE …]: the chain with overrides.

Each run gets its own DVC workspace (Hydra's output directory) on the shared run-cache, so
what any run computed before is not computed again, and ends as one MLflow run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pipeline.lowrank.errors import LowRankError
from pipeline.orchestration.compose import check_overrides, to_params
from pipeline.orchestration.pins import pin
from pipeline.orchestration.workspace import make_workspace, reproduce

ROOT = Path(__file__).resolve().parent.parent


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def run(config: DictConfig) -> float:
    """One job; returns the accuracy of the fine-tuned network (of an encoder its cosine to the
    dense one), which sweepers maximise."""
    try:
        return _run_job(config)
    except LowRankError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # the other jobs go on; Hydra reports this one
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _run_job(config: DictConfig) -> float:
    params = pin(to_params(config), Path.cwd())
    workspace = Path(HydraConfig.get().runtime.output_dir)
    make_workspace(ROOT, workspace, params)
    reproduce(ROOT, workspace)

    from pipeline.orchestration.tracking import track_run  # MLflow: seconds of import
    from pipeline.workload.tables import print_summary

    before = Path.cwd()
    os.environ["LOWRANK_ROOT"], os.environ["LOWRANK_SCRATCH"] = str(ROOT), str(ROOT / ".scratch")
    os.chdir(workspace)
    try:
        tracked = track_run(Path(), params)
        print_summary(Path())
    finally:
        os.chdir(before)
    print(f"\nworkspace  {workspace}\nMLflow run {tracked['run_id']} ({tracked['experiment']})")
    metrics = json.loads((workspace / "reports/metrics.json").read_text())
    quality = metrics["fine_tuned"]
    return float(quality["accuracy"] if "accuracy" in quality else quality["cosine"])


def main() -> None:
    # A job's processes are ended on the way out, also when someone else ends this one.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    try:
        check_overrides(ROOT / "conf", overrides)
        run()
    except LowRankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
