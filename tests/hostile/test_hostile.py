"""No damaged or hostile file gives more than a line: no traceback, no hang, no gigabytes, no
program, nothing written elsewhere. `python -m benchmarks.fuzz` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.damage import Damage, damages
from tests.hostile.foreign import FOREIGN
from tests.hostile.readers import READERS
from tests.hostile.trial import Reader, trial

CASES = 2100
ALL = (*READERS, *FOREIGN)
SHARES = sum(reader.share for reader in ALL)


@pytest.mark.parametrize("reader", ALL, ids=lambda reader: reader.name)
def test_a_damaged_file_is_one_line(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path / "scratch"))
    folder = tmp_path.resolve()
    reader.write(folder)
    reader.read(folder)
    told = []

    @settings(
        max_examples=round(CASES * reader.share / SHARES) + 1,
        deadline=None,
        database=None,
        derandomize=True,  # the same cases in every run; the long run draws others
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.floats(0, 1, exclude_max=True, width=32), damages())
    def damaged(which: float, damage: Damage) -> None:
        told.append(trial(reader, folder, which, damage))

    damaged()
    assert len(told) >= CASES * reader.share / SHARES
    assert sum(one is not None for one in told) > len(told) / 3, "most damage is seen"


def test_what_a_trial_forbids(tmp_path: Path) -> None:
    """The harness itself: each of these is found."""
    outside = tmp_path / "outside"
    folder = (tmp_path / "folder").resolve()
    folder.mkdir()

    def reader(read: str) -> Reader:
        def write(place: Path) -> None:
            (place / "a").write_bytes(b"abc")

        found = Reader(read, write, lambda place: exec(read, {"place": place, "outside": outside}))
        found.write(folder)
        return found

    for code, expected in (
        ("open(outside, 'w').close()", (AssertionError, r"wrote .*outside")),
        ("import os; os.system('true')", (AssertionError, r"os.system")),
        ("import subprocess; subprocess.run(['true'])", (AssertionError, "subprocess.Popen")),
        ("bytearray(3 << 30)", (MemoryError, None)),
        ("{}['a']", (KeyError, "a")),
        ("from pipeline.lowrank import LowRankError\nraise LowRankError('a\\nb\\nc')",
         (AssertionError, "no line")),
    ):  # fmt: skip
        kind, message = expected
        with pytest.raises(kind, match=message):
            trial(reader(code), folder, 0.0, Damage("cut", 0.5, None))
        assert (folder / "a").read_bytes() == b"abc"
    assert trial(reader("open(place / 'b', 'w').close()"), folder, 0.0,
                 Damage("cut", 0.5, None)) is None  # fmt: skip
