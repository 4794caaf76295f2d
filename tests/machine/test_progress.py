"""How far a stage is: told by the loops of the library, shown for a person or a log."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank.network.progress import steps, watched
from pipeline.machine import progress
from pipeline.machine.progress import shown_progress


def compress() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8))
    plan = lr.plan(net, lr.Budget(params=0.6), calibration=[torch.randn(16, 24) for _ in range(4)])
    lr.apply_(net, plan)


def test_every_long_loop_of_a_compression_tells_its_way() -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    with watched(lambda what, done, total: told.setdefault(what, []).append((done, total))):
        compress()
    assert {"moments", "metric", "spectra", "candidates", "contest", "divergence", "layers"} <= set(
        told
    )
    for what, way in told.items():
        for done, total in way:
            assert 0 <= done <= total, what
        assert way[0][0] == 0 and way[-1][0] == way[-1][1], what
    before = dict(told)
    compress()  # nobody watches any more
    assert told == before


class Terminal:
    """Standard output as a terminal has it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 120])
def test_a_terminal_has_a_bar_for_each_loop_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(progress, "_SOON", 0.0)
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    with shown_progress("decompose"):
        for _ in steps([1, 2, 3], "outer"):
            for _ in steps([1, 2], "inner"):
                pass
            print("said between")
        # The cursor is back: a display of its own, as a training has, finds the terminal free.
        assert "\x1b[?25h" in screen.text.split("2/3")[-1]
    shown = screen.text
    assert "decompose: outer" in shown and "1/3" in shown and "2/3" in shown
    assert "decompose: inner" in shown
    assert shown.count("said between") == 3


def test_a_pipe_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 4.0, 12.0, 16.0, 24.0, 25.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with shown_progress("analyze"):
        for _ in steps("abcde", "spectra"):
            pass
    assert capsys.readouterr().out.splitlines() == [
        "analyze: spectra 2/5, about 0:18 left",
        "analyze: spectra 4/5, about 0:06 left",
    ]


def test_a_loop_that_fails_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SOON", 0.0)
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")

    def fail() -> None:
        for number in steps([1, 2, 3], "spectra"):
            if number == 3:
                raise KeyError

    with pytest.raises(KeyError), shown_progress("analyze"):
        fail()
    assert "\x1b[?25h" in screen.text  # the cursor is back
