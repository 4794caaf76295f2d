"""The peak of the memory is the process's own."""

from __future__ import annotations

import subprocess
import sys


def test_the_peak_counts_what_was_given_back() -> None:
    code = (
        "from pipeline.machine.memory import peak_memory_gib as peak\n"
        "before = peak()\n"
        "block = bytearray(2**30)\n"
        "block[::4096] = b'1' * len(block[::4096])\n"
        "del block\n"
        "print(before, peak())"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, after = map(float, printed.split())
    assert before > 0.001
    least = max(before, 1.0)  # before: that of this process, which it was forked from
    assert least <= after < least + 0.2
