"""What the steps of a spectrum cost against the size of a square matrix in bf16, and the slope of
log seconds against log size: a Markdown table on stdout.

    python -m benchmarks.scale [--threads 1] [--sizes 512 1024 2048 4096] [--repetitions 3]

Seconds are processor time, the least of the repetitions. In theory every slope is 3; a small matrix
lies in the cache, where a reduction to three diagonals reads faster, so that measured ones differ.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from pipeline.lowrank.analysis.leading import squared_values, truncated
from pipeline.lowrank.network.linalg import gram_of_smaller_side, left_eigenbasis

KEPT = 0.37  # of the directions: what half of the parameters and pivots leave of a square matrix


def steps_of(size: int) -> dict[str, Callable[[], object]]:
    """{a step: what runs it} for one seeded matrix of this size."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(size, size, generator=generator).bfloat16()
    squares, rank = squared_values(matrix[None]), round(KEPT * size)
    exact = matrix.double()
    return {
        "whole Gram matrix": lambda: exact @ exact.mT,
        "half of it": lambda: gram_of_smaller_side(matrix, torch.float64),
        "values and basis, float64": lambda: left_eigenbasis(matrix),
        "values alone, float64": lambda: squared_values(matrix[None]),
        f"{KEPT:.0%} of the directions, certified": lambda: truncated(
            matrix[None], squares, rank, "w"
        ),
    }


def seconds_of(run: Callable[[], object], repetitions: int) -> float:
    """Processor time of a call, the least of several."""
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent p of seconds ≈ c·sizeᵖ, by least squares of the logarithms."""
    logs = [[math.log(value) for value in values] for values in (sizes, seconds)]
    return statistics.linear_regression(*logs).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    columns = [
        {name: seconds_of(run, options.repetitions) for name, run in steps_of(size).items()}
        for size in options.sizes
    ]
    print(f"| seconds | {' | '.join(map(str, options.sizes))} | slope |")
    print("|---" * (len(options.sizes) + 2) + "|")
    for name in columns[0]:
        times = [column[name] for column in columns]
        cells = " | ".join(f"{value:.3g}" for value in times)
        print(f"| {name} | {cells} | {slope(options.sizes, times):.2f} |", flush=True)


if __name__ == "__main__":
    main()
