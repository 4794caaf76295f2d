"""baseline: trains the dense network, or imports a checkpoint of the user's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.training.baseline import make_baseline
from stages._io import main, section
from stages._training import run_training


def run() -> None:
    folder, data = Path("out/baseline"), Path("out/data")
    make = partial(make_baseline, folder, data, section("model"), section("baseline"))
    run_training("baseline", folder, make)


if __name__ == "__main__":
    main(run)
