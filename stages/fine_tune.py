"""fine-tune: trains the compressed network; never returns a worse one than it got."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.training.fine_tune import fine_tune
from pipeline.training.options import FineTuneOptions
from stages._io import main, section_options
from stages._network import named_code
from stages._training import run_training


def run() -> None:
    folder, compressed = Path("out/fine_tuned"), Path("out/compressed")
    make = partial(
        fine_tune,
        folder,
        compressed,
        Path("out/baseline"),
        Path("out/data"),
        section_options("fine_tune", FineTuneOptions),
        allow=named_code(),
    )
    run_training("fine-tune", folder, make)


if __name__ == "__main__":
    main(run)
