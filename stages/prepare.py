"""prepare: real data, split into train, calibration, held-out, validation and test, checksummed."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.lowrank.tasks import get_task
from stages._io import main, section, section_options


def run() -> None:
    options = section_options("data", DataOptions)
    task = get_task(section("task")["name"])
    facts = prepare_data(Path("out/data"), options, task, section("seed"))
    sizes = ", ".join(f"{size} {split}" for split, size in facts.sizes.items())
    print(f"prepare: {facts.source}: {sizes}")


if __name__ == "__main__":
    main(run)
