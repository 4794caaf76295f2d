"""prepare: real data, split into train, calibration, validation and test, checksummed."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.preparation import prepare_data
from stages._io import main, section


def run() -> None:
    meta = prepare_data(Path("out/data"), **section("data"), seed=section("seed"))
    sizes = ", ".join(f"{size} {split}" for split, size in meta["sizes"].items())
    print(f"prepare: {meta['source']}: {sizes}")


if __name__ == "__main__":
    main(run)
