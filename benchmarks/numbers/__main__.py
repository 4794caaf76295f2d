"""Numbers: random layers, hard ones among them, through analysis, plan, factors and certificates.

    python -m benchmarks.numbers [--layers 10000] [--seed 0]

Layers are drawn eight to a network (`Beside`), of every kind, number format and sort below, with a
metric, a method and a policy for each network. Of each factorized layer it is checked that

- its measured error lies within its certificate, up to the rounding that is reported, and this
  rounding is at most `VACUOUS` of ‖W‖: what holds for any factors certifies nothing. (Pivots of a
  layer of denormal numbers are denormal too, with few digits: theirs is shown by itself);
- what the plan calls exact is the error of the float64 factors to `EXACT`, and an upper bound is
  one; for truncated SVDs the tail of LAPACK's singular values is the same number;
- the bound of its operator (`lr.certify`) is no less than ‖W − Ŵ‖₂, for a matrix no more than
  1 + `VACUOUS` times it, and the rounding that it allows for is at most `VACUOUS` of ‖W‖₂;

and of each network that

- another order of its layers gives the same spectra, plan and factors to the bit;
- two threads (of each sixteenth network) give the eigenvalues of one to `THREADS` of the largest, a
  plan of the same costs, and errors that differ by no more than the reported rounding.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace

import torch

from benchmarks.numbers.checking import FailedError, Tally, check
from benchmarks.numbers.drawing import Draw
from pipeline import lowrank as lr


def run(layers: int, seed: int, of_each: int = 8) -> tuple[Tally, int]:
    """(what was checked, how many cases broke a promise; each is shown)."""
    tally, failures, done = Tally(Counter(), {}), 0, 0
    while done < layers:
        case = Draw(seed + done).case(of_each)
        try:
            try:
                check(case, tally, threads=done % (16 * of_each) == 0)
            except lr.LowRankError as error:
                if "can hold" not in str(error):
                    raise
                tally.counts["networks with pivots beyond their format"] += 1
                check(replace(case, method=lr.Tucker2()), tally, threads=False)
        except (FailedError, lr.LowRankError) as error:
            failures += 1
            print(f"seed {seed + done}, {case.metric}, {case.method}, {case.policy}: {error}")
        except Exception:
            failures += 1
            print(f"seed {seed + done}, {case.metric}, {case.method}, {case.policy}:")
            traceback.print_exc(file=sys.stdout)
        done += of_each
        if done % 1000 < of_each:
            print(f"{done:,} layers, {failures} cases broke a promise", flush=True)
    return tally, failures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    tally, failures = run(chosen.layers, chosen.seed)
    print(f"{time.perf_counter() - start:.0f} s, {failures} cases broke a promise")
    for what, count in sorted(tally.counts.items()):
        print(f"{what:28} {count:,}")
    for what, value in tally.largest.items():
        print(f"{what:28} at most {value:.3g}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
