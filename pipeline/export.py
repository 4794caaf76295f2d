"""python -m pipeline.export WORKSPACE to=FORMAT[,FORMAT…] out=DIR [KEY=VALUE …]

Writes a network of a run (or of a folder of lr.save) to DIR so that it loads and runs without this
project, opens it there in a process of its own, and compares what it computes. FORMAT is torch,
huggingface, onnx, pt2 or dense; keys: form, dtype, network, dynamic, normalise, tolerance, shard.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.config.exporting import run_export
from pipeline.lowrank.errors import LowRankError

CONF = Path(__file__).resolve().parent.parent / "conf"


def main() -> None:
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    try:
        run_export(CONF, sys.argv[1:])
    except LowRankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
