"""python -m pipeline.report FOLDER [--measure]

FOLDER is the workspace of a run that is done (. after dvc repro): writes reports/report.html, the
page of the run. Or it is a sweep's folder: writes comparison.html, the page of its jobs, also while
it runs.

--measure: first measure the latencies that a busy machine spoilt, or that are not known, again; of
a sweep one job after the other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline.machine.faults import one_line
from pipeline.reporting.run.page.write import is_run, write_page
from pipeline.reporting.sweep.write import write_comparison
from pipeline.tracking.store import main_root

MEASURE = "--measure"


def main() -> None:
    arguments = [one for one in sys.argv[1:] if one != MEASURE]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if arguments in (["-h"], ["--help"]) else 2)
    folder = Path(arguments[0])
    # Where the runs of this repository keep their latencies.
    os.environ.setdefault("LOWRANK_SCRATCH", str(main_root() / ".scratch"))
    with one_line("report", Path(__file__).resolve().parents[1]):
        if MEASURE in sys.argv:
            from pipeline.sweeps.again import measure_again, measure_run  # torch, MLflow: seconds

            for line in [measure_run(folder)] if is_run(folder) else measure_again(folder):
                print(line)
        print(write_page(folder) if is_run(folder) else write_comparison(folder))


if __name__ == "__main__":
    main()
