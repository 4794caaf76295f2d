"""python -m pipeline.extract_lora base=PATH tuned=PATH out=DIR [rank_select=… KEY=VALUE …]

Writes the difference of two networks of one architecture to DIR as a LoRA adapter for peft,
its ranks chosen by a policy of conf/rank_select. A PATH is a folder of transformers, a network
folder of this project, or a .safetensors file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.config.extraction import run_extraction
from pipeline.lowrank.errors import LowRankError

CONF = Path(__file__).resolve().parent.parent / "conf"


def main() -> None:
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    try:
        run_extraction(CONF, sys.argv[1:])
    except LowRankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
