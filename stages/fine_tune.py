"""fine-tune: repairs the compressed network; never returns a worse one than it got."""

from __future__ import annotations

from pathlib import Path

from pipeline.orchestration.live import curve_logger
from pipeline.workload.devices import FabricOptions, make_fabric
from pipeline.workload.fine_tuning import fine_tune
from stages._io import main, section, write_json


def run() -> None:
    seed, folder = section("seed"), Path("out/finetuned")
    fabric = make_fabric(FabricOptions(**section("fabric")), seed)
    with curve_logger("fine-tune") as log:
        curve = fine_tune(
            folder,
            Path("out/compressed"),
            Path("out/data"),
            section("fine_tune"),
            fabric=fabric,
            seed=seed,
            on_step=log,
        )
    if fabric.is_global_zero:
        write_json(folder / "curve.json", curve.to_dict())


if __name__ == "__main__":
    main(run)
