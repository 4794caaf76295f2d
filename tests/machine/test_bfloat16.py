"""Options that ask for bfloat16 are refused at once on a CPU that is slow in it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.lowrank import LowRankError
from pipeline.machine import number_formats as bfloat16
from pipeline.machine.devices import FabricOptions, make_fabric
from pipeline.machine.number_formats import check_bfloat16, slowdown

ASKING: dict[str, dict[str, Any]] = {
    "fabric": {"accelerator": "cpu", "precision": "bf16-mixed"},
    "analyze": {"bf16": True, "metric": "fisher"},
    "refit": {"bf16": True, "share": 0.5},
}


def test_the_error_names_every_option_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "slowdown", lambda: 70.0)
    remedies = "set fabric.precision=32-true analyze.bf16=false refit.bf16=false"
    with pytest.raises(LowRankError, match=f"70 times slower in it than in float32; {remedies}"):
        check_bfloat16(ASKING)
    with pytest.raises(LowRankError, match=r"float32; set refit\.bf16=false$"):
        check_bfloat16({"refit": ASKING["refit"]})
    with pytest.raises(LowRankError, match=r"set fabric\.precision=32-true"):
        make_fabric(FabricOptions(precision="bf16-mixed"), seed=0)


@pytest.mark.parametrize(
    "section",
    [
        {"fabric": {"accelerator": "cuda", "precision": "bf16-mixed"}},
        {"fabric": {"accelerator": "cpu", "precision": "16-mixed"}},
        {"analyze": {"bf16": False, "metric": "fisher"}},
        {"analyze": {"bf16": True, "metric": "weight"}},
        {"refit": {"bf16": True, "share": 0.0, "steps": 0}},
    ],
)
def test_what_does_not_run_in_bfloat16_is_not_asked(
    section: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "slowdown", lambda: 70.0)
    check_bfloat16(section)


def test_a_cpu_that_has_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "slowdown", lambda: 0.5)
    check_bfloat16(ASKING)


def test_the_slowdown_is_measured() -> None:
    assert 0.01 < slowdown() < 10_000
