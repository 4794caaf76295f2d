"""prepare: real data, split into train, calibration, held-out, validation and test, checksummed."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.files import TASK_JSON
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.lowrank.tasks.options import TaskOptions
from pipeline.lowrank.typed import save_record
from stages._io import main, section, section_options

DATA = Path("out/data")


def run() -> None:
    options = section_options("data", DataOptions)
    chosen = section_options("task", TaskOptions)
    facts = prepare_data(DATA, options, chosen.made(), section("seed"))
    save_record(DATA / TASK_JSON, chosen)
    sizes = ", ".join(f"{size} {split}" for split, size in facts.sizes.items())
    print(f"prepare: {facts.source}: {sizes}")


if __name__ == "__main__":
    main(run)
