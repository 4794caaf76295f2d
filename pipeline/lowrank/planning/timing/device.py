"""What a time depends on besides the network: the machine and the library."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """The facts of a device on which a time depends. gpu: its name, None on a CPU."""

    cpu: str
    cores: int | None
    system: str
    torch: str
    threads: int
    gpu: str | None = None


def device_of(device: torch.device) -> Device:
    """This machine as it computes on a device of torch now."""
    import torch  # who reads a record of a time waits for no torch

    return Device(
        cpu=cpu_model(),
        cores=os.cpu_count(),
        system=platform.system(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def cpu_model() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where times of this user's machines are kept: $LOWRANK_CACHE, or `lowrank-pipeline` in the
    user's cache folder."""
    if given := os.environ.get("LOWRANK_CACHE"):
        return Path(given) / "latency"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lowrank-pipeline" / "latency"
