"""The memory that this process has used."""

from __future__ import annotations

import resource
import sys

_UNIT = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in bytes


def peak_memory_gib() -> float:
    """The most memory that this process held at a time, in GiB; on Linux that of the process which
    it was forked from counts too."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 2**30
