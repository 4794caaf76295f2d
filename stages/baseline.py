"""baseline: trains the dense network, or imports a checkpoint of the user's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.training.baseline import make_baseline
from pipeline.training.options import BaselineOptions
from stages._io import main, section, section_options
from stages._training import run_training


def run() -> None:
    folder, data = Path("out/baseline"), Path("out/data")
    options = section_options("baseline", BaselineOptions)
    make = partial(make_baseline, folder, data, section("model"), options)
    run_training("baseline", folder, make)


if __name__ == "__main__":
    main(run)
