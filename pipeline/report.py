"""python -m pipeline.report SWEEP [--measure]

Writes the comparison of a sweep's jobs into its folder: a page for the browser
(comparison.html) and pictures (fronts.png, ranks.png). Works while the sweep runs.

--measure: first measure the latencies again that a busy machine spoilt, one job after the other.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.machine.faults import one_line
from pipeline.reporting.sweep.write import write_comparison

MEASURE = "--measure"


def main() -> None:
    arguments = [one for one in sys.argv[1:] if one != MEASURE]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if arguments in (["-h"], ["--help"]) else 2)
    with one_line("report", Path(__file__).resolve().parents[1]):
        if MEASURE in sys.argv:
            from pipeline.sweeps.again import measure_again  # torch and MLflow: seconds

            for line in measure_again(Path(arguments[0])):
                print(line)
        for file in write_comparison(Path(arguments[0])):
            print(file)


if __name__ == "__main__":
    main()
