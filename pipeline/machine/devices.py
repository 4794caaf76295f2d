"""Devices, precision and determinism, by Lightning Fabric."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric, seed_everything

from pipeline.lowrank.errors import LowRankError
from pipeline.machine.number_formats import check_bfloat16
from pipeline.machine.threads import set_threads


@dataclass(frozen=True)
class FabricOptions:
    """The fabric section. `threads` is the number of CPU threads a process (None: torch's)."""

    accelerator: str = "cpu"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    threads: int | None = 2


def make_fabric(options: FabricOptions, seed: int) -> Fabric:
    """A launched Fabric in a process made deterministic and seeded.

    With several devices the strategy starts the other processes here. Raises LowRankError for
    an accelerator, strategy or precision that this machine doesn't have, bfloat16 on a CPU
    without it included.
    """
    set_deterministic(options.threads)
    seed_everything(seed, verbose=False)
    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=options.precision,  # type: ignore[arg-type]
        )
        fabric.launch()
    except (ValueError, RuntimeError, TypeError) as error:
        # Fabric has no exception class of its own; its messages name the option.
        raise LowRankError(
            f"fabric: {str(error).splitlines()[0]} (accelerator={options.accelerator}, "
            f"devices={options.devices}, strategy={options.strategy}, "
            f"precision={options.precision}); correct the fabric section"
        ) from error
    chosen = {"accelerator": fabric.device.type, "precision": options.precision}
    check_bfloat16({"fabric": chosen})
    return fabric


def set_deterministic(threads: int | None) -> None:
    """Same seed, same bits on the same machine, from here on in this process."""
    set_threads(threads)
    # cuBLAS reads it when it starts; without it deterministic matrix products are refused.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling every empty tensor finds bugs, and costs bandwidth at every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
