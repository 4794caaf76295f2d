"""How much memory this process has used."""

from __future__ import annotations

import resource
import sys

_UNIT = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in bytes


def peak_memory_gib() -> float:
    """The most that this process held at a time, in GiB; Linux counts from what it was forked
    from."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 2**30
