"""The number of CPU threads with which a stage computes."""

from __future__ import annotations

import torch

from pipeline.lowrank.errors import LowRankError


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads, the fabric section's `threads`. None leaves torch's own
    choice, which depends on the machine and on OMP_NUM_THREADS (launchers set that one for their
    workers). The number decides how sums are split, so another number changes the last bits of
    results."""
    if threads is None:
        return
    if threads < 1:
        raise LowRankError(f"fabric.threads={threads}: give at least 1, or null for all cores")
    torch.set_num_threads(threads)
