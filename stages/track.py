"""track: everything that the chain found, as one MLflow run; and the summary on the terminal."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.lowrank.typed import save_record
from pipeline.reporting.run.ending import print_ending
from pipeline.reporting.run.summary import print_summary
from pipeline.tracking.run import track_run
from stages._io import main


def run() -> None:
    root = Path()
    params = yaml.safe_load((root / "params.yaml").read_text())
    run_id, name = track_run(root, params)
    print_summary(root)
    print_ending(root, f"{run_id} ({name.experiment})")
    # Not the run's id, which would change dvc.lock from run to run: the tags that find it.
    save_record(root / "out/mlflow_run.json", name)


if __name__ == "__main__":
    main(run)
