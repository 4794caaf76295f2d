"""fine-tune: repairs the compressed network; never returns a worse one than it got."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.training.fine_tune import fine_tune
from stages._io import main, section
from stages._training import run_training


def run() -> None:
    folder, compressed = Path("out/finetuned"), Path("out/compressed")
    make = partial(
        fine_tune,
        folder,
        compressed,
        Path("out/baseline"),
        Path("out/data"),
        section("fine_tune"),
    )
    run_training("fine-tune", folder, make)


if __name__ == "__main__":
    main(run)
