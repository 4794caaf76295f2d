"""Parts that the stages that train share: devices, live curves, curve.json."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from pipeline.lowrank.typed import save_record
from pipeline.machine.devices import FabricOptions, make_fabric
from pipeline.tracking.live import curve_logger
from pipeline.training.curve import CURVE, Curve
from stages._io import section, section_options


def run_training(stage: str, folder: Path, make: Callable[..., Curve]) -> None:
    """Calls make(fabric=…, seed=…, on_step=…), which writes a network to `folder`, and puts its
    curve beside it. With several devices the first process alone logs and writes."""
    seed = section("seed")
    fabric = make_fabric(section_options("fabric", FabricOptions), seed)
    with curve_logger(stage) if fabric.is_global_zero else nullcontext() as log:
        curve = make(fabric=fabric, seed=seed, on_step=log)
    if fabric.is_global_zero:
        save_record(folder / CURVE, curve)
