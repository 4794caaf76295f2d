"""baseline: trains the dense network, or imports a checkpoint of the user's own."""

from __future__ import annotations

from pathlib import Path

from pipeline.orchestration.live import curve_logger
from pipeline.workload.baseline import make_baseline
from pipeline.workload.devices import FabricOptions, make_fabric
from stages._io import main, section, write_json


def run() -> None:
    seed, folder = section("seed"), Path("out/baseline")
    fabric = make_fabric(FabricOptions(**section("fabric")), seed)
    with curve_logger("baseline") as log:
        curve = make_baseline(
            folder,
            Path("out/data"),
            section("model"),
            section("baseline"),
            fabric=fabric,
            seed=seed,
            on_step=log,
        )
    if fabric.is_global_zero:
        write_json(folder / "curve.json", curve.to_dict())


if __name__ == "__main__":
    main(run)
