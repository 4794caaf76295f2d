"""python -m pipeline.report SWEEP

Writes the comparison of a sweep's jobs into its folder: a page for the browser
(comparison.html) and pictures (fronts.png, ranks.png). Works while the sweep runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.lowrank.errors import LowRankError
from pipeline.reporting.sweep.write import write_comparison


def main() -> None:
    arguments = sys.argv[1:]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if arguments in (["-h"], ["--help"]) else 2)
    try:
        for file in write_comparison(Path(arguments[0])):
            print(file)
    except LowRankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
