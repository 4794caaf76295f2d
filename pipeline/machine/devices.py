"""Devices, precision and determinism, by Lightning Fabric."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.lowrank.typed import knob, options
from pipeline.machine.number_formats import check_bfloat16
from pipeline.machine.sharding import FSDP, sharing_strategy
from pipeline.machine.threads import set_threads

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.strategy import Strategy

Precision = Literal[
    "32-true",
    "64-true",
    "16-true",
    "bf16-true",
    "16-mixed",
    "bf16-mixed",
    "transformer-engine",
    "transformer-engine-float16",
]

_EVERYWHERE = ("32-true", "64-true", "bf16-true", "bf16-mixed")  # number formats of every device


@options
class FabricOptions:
    """Devices, threads and the number format."""

    accelerator: str = knob("cpu", help="cpu, cuda, mps, …, or auto: the best of this machine")
    devices: int = knob(1, ge=1, help="how many of them")
    num_nodes: int = knob(1, ge=1, help="machines")
    strategy: str = knob(
        "auto",
        help="how several devices share the work: ddp, and the like; fsdp shares out parameters, "
        "gradients and the optimizer's state too, of fine-tuning alone",
    )
    precision: Precision = knob(
        "32-true", help="number format of the baseline's training and of fine-tuning"
    )
    threads: int | None = knob(
        2,
        ge=1,
        le=1024,
        help="CPU threads a process; part of the configuration, because it changes the bits; null "
        "leaves it to torch",
    )


def check_devices(chosen: FabricOptions) -> None:
    """Raises LowRankError for an accelerator, a strategy or a precision that this machine doesn't
    have; nothing is started."""
    alone = (chosen.devices, chosen.num_nodes, chosen.strategy) == (1, 1, "auto")
    if not (alone and chosen.accelerator in ("cpu", "auto") and chosen.precision in _EVERYWHERE):
        _fabric(chosen)


def make_fabric(chosen: FabricOptions, seed: int) -> Fabric:
    """A launched Fabric in a process made deterministic and seeded.

    With several devices the strategy starts the other processes here. Raises LowRankError for
    an accelerator, strategy or precision that this machine doesn't have, bfloat16 on a CPU
    without it included.
    """
    # More than a second of import, which a configuration, of which the options are, never needs.
    from lightning_fabric import seed_everything

    set_deterministic(chosen.threads)
    seed_everything(seed, verbose=False)
    fabric = _fabric(chosen, launched=True)
    if fabric.device.type != "cpu":
        _as_far_as_known()
    check_bfloat16({"fabric": {"accelerator": fabric.device.type, "precision": chosen.precision}})
    return fabric


def _fabric(chosen: FabricOptions, *, launched: bool = False) -> Fabric:
    from lightning_fabric import Fabric

    strategy: str | Strategy = chosen.strategy
    if strategy == FSDP:
        strategy = sharing_strategy(chosen.devices * chosen.num_nodes)
    try:
        fabric = Fabric(
            accelerator=chosen.accelerator,
            devices=chosen.devices,
            num_nodes=chosen.num_nodes,
            strategy=strategy,
            precision=chosen.precision,
        )
        if launched:
            fabric.launch()
    except (ValueError, RuntimeError, TypeError) as error:
        # Fabric has no exception class of its own; its messages name the option.
        raise LowRankError(
            f"fabric: {reason_of(error)} (accelerator={chosen.accelerator}, "
            f"devices={chosen.devices}, strategy={chosen.strategy}, "
            f"precision={chosen.precision}); correct the fabric section"
        ) from error
    if (taken := fabric.strategy.precision.precision) != chosen.precision:  # by a warning only
        raise LowRankError(
            f"fabric.precision={chosen.precision}: not on accelerator={chosen.accelerator}, which "
            f"would take {taken}; choose that, or 32-true"
        )
    return fabric


def one_device(chosen: FabricOptions) -> torch.device:
    """The one device of a stage that is a single process, which is made deterministic. Raises
    LowRankError for an accelerator that this machine doesn't have."""
    if chosen.accelerator == "cpu":  # spares the import of Fabric
        set_threads(chosen.threads)
        return torch.device("cpu")
    single = replace(chosen, devices=1, num_nodes=1, strategy="auto")
    return make_fabric(single, seed=0).device


def _as_far_as_known() -> None:
    """Some operations have no deterministic kernel on a GPU, as the gradient of an upsampling:
    torch warns of them. Decompositions are cuSOLVER's: MAGMA's, for batches, are slow for large
    matrices."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.preferred_linalg_library("cusolver")


def set_deterministic(threads: int | None) -> None:
    """Makes this process deterministic from here on: the same seed gives the same bits on the same
    machine."""
    set_threads(threads)
    # cuBLAS reads it when it starts; without it deterministic matrix products are refused.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling every empty tensor finds bugs, and costs bandwidth at every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
