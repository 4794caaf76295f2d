"""python -m pipeline.tracking.ui [OPTION …]: MLflow's pages on the runs of this repository.

Options are those of `mlflow server`, such as --port. What is logged to the server goes to the same
store, artifacts included.
"""

from __future__ import annotations

import os
import sys

from pipeline.lowrank.errors import LowRankError
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import artifacts_folder, main_root, open_client, quiet_mlflow


def main() -> None:
    store = f"sqlite:///{main_root() / 'mlflow.db'}"
    try:
        open_client(TrackOptions(tracking_uri=store))
    except LowRankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    quiet_mlflow()
    place = artifacts_folder().as_uri()
    command = ["server", "--backend-store-uri", store, "--artifacts-destination", place]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *command, *sys.argv[1:]])


if __name__ == "__main__":
    main()
