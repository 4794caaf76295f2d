"""Fuzz: every reader on damaged files, in processes of its own; what is no line is shown and kept.

python -m benchmarks.fuzz [CASES [SEED [READER]]]

CASES (default 100,000) are shared by the readers of tests/hostile, which says what is damaged and
what may come of it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.hostile.damage import Damage, damages
from tests.hostile.foreign import FOREIGN
from tests.hostile.readers import READERS
from tests.hostile.trial import Reader, trial

_ROUND = 2000  # cases


def fuzz(reader: Reader, cases: int, start: int) -> tuple[int, int, Counter[str]]:
    """(cases, lines told, {failure: how often}) of a reader."""
    failures: Counter[str] = Counter()
    count = told = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        os.environ["LOWRANK_SCRATCH"] = str(folder / "scratch")
        reader.write(folder)
        reader.read(folder)  # what is not damaged is read

        @seed(start)
        @settings(
            max_examples=cases,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.floats(0, 1, exclude_max=True, width=32), damages())
        def one(which: float, damage: Damage) -> None:
            nonlocal count, told
            count += 1
            try:
                told += trial(reader, folder, which, damage) is not None
            except Exception as error:
                files = reader.damaged(folder)
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                kind = f"{type(error).__name__} at {where}"
                if kind not in failures:
                    file = files[int(which * len(files))].relative_to(folder)
                    print(f"{reader.name}: {file}: {damage}\n{traceback.format_exc()}", flush=True)
                failures[kind] += 1

        one()
    return count, told, failures


def main() -> None:
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    start = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    readers = [r for r in (*READERS, *FOREIGN) if len(sys.argv) < 4 or r.name == sys.argv[3]]
    shares = sum(reader.share for reader in readers)
    total: Counter[str] = Counter()
    while total["cases"] < cases:  # in rounds, so that a run that is ended has counts of all
        for reader in readers:
            count, told, failures = fuzz(reader, round(_ROUND * reader.share / shares) + 1, start)
            total.update({"cases": count, "told": told, reader.name: count})
            total["failures"] += sum(failures.values())
        start += 1
        print(f"{time.process_time():.0f} s: {dict(total)}", flush=True)
    sys.exit(total["failures"] > 0)


if __name__ == "__main__":
    main()
