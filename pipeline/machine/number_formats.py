"""bfloat16 on CPUs, which is refused where the CPU computes it number by number."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from pipeline.lowrank.errors import LowRankError

_SIZE = 256  # of the matrices that are multiplied to find out
_MOST = 8.0  # times as slow as float32; CPUs that have it are faster, and 50 to 100 where not


def check_bfloat16(params: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises LowRankError where options ask for bfloat16 and this CPU multiplies in it many
    times slower than in float32: hours would become days.

    params: any of the sections `fabric`, `analyze` and `refit`, which matter where the network runs
    on the CPU: where `fabric` says so, or is not given. Asked by the stages, not before them:
    results that another machine computed are taken from the cache anywhere.
    """
    fabric, remedies = params.get("fabric", {}), []
    if fabric.get("accelerator", "cpu") != "cpu":
        return
    if fabric.get("precision", "").startswith("bf16"):
        remedies.append("fabric.precision=32-true")
    analyze, refit = params.get("analyze", {}), params.get("refit", {})
    if analyze.get("bf16") and analyze["metric"] != "weight":
        remedies.append("analyze.bf16=false")
    if refit.get("bf16") and (refit["share"] or refit["steps"]):
        remedies.append("refit.bf16=false")
    if remedies and (slower := slowdown()) > _MOST:
        raise LowRankError(
            f"bfloat16: this CPU has no instructions for it (AVX-512, AMX or Arm's BF16) and is "
            f"{slower:.0f} times slower in it than in float32; set {' '.join(remedies)}"
        )


@cache
def slowdown() -> float:
    """Seconds of a product of two matrices in bfloat16, relative to float32, on one thread."""
    import torch  # not before it is needed: seconds

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(_SIZE, _SIZE, dtype=dtype)
        found = []
        for _ in range(4):
            start = time.perf_counter()
            _ = matrix @ matrix
            found.append(time.perf_counter() - start)
        return min(found)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what else this machine does would stop several
    try:
        return seconds(torch.bfloat16) / seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)
