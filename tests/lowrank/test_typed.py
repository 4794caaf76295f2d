"""Options are checked where they are given; records come back as the types that were written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import (
    keywords_checked,
    knob,
    load_record,
    options,
    options_from,
    save_record,
)


@options
class Case:
    name: ClassVar[str] = "case"

    most: int = knob(10, ge=0, help="sweeps")
    share: float = knob(0.5, gt=0, lt=1, help="a fraction")
    kind: Literal["greedy", "exact"] = knob("greedy", help="the solver")
    patterns: Sequence[str] = knob(("*",), min_length=1, help="names")
    limit: float | None = knob(None, gt=0, help="none: no limit")

    def __post_init__(self) -> None:
        if self.most == 7:
            raise LowRankError("seven sweeps are unlucky; choose another number")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mots": 3}, "no option 'mots': did you mean 'most'"),
        ({"most": -1}, "most=-1: choose a number of at least 0"),
        ({"most": 2.5}, "choose a whole number"),
        ({"most": True}, "choose a whole number"),
        ({"share": 1.0}, "share=1.0: choose a number below 1"),
        ({"share": "0.5"}, "share='0.5': choose a number"),
        ({"share": math.nan}, "share=nan"),
        ({"kind": "gredy"}, "did you mean 'greedy'"),
        ({"patterns": ()}, "give at least 1"),
        ({"limit": -1.0}, "choose a number above 0"),
        ({"most": 7}, "seven sweeps are unlucky"),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(given: dict[str, Any], told: str) -> None:
    with pytest.raises(LowRankError, match=r"^[^\n]*$") as error:
        Case(**given)
    assert told in str(error.value)


def test_options_are_plain_frozen_values() -> None:
    case = Case(3, share=np.float64(0.25))
    assert asdict(case)["share"] == 0.25 and type(case.share) is float
    assert replace(case, most=4).most == 4 and case == Case(3, 0.25)
    with pytest.raises(AttributeError):
        case.most = 5  # type: ignore[misc]


def test_unknown_keywords_of_functions_are_refused_with_the_near_match() -> None:
    @keywords_checked
    def plan(model: int, *, metric: str = "weight") -> str:
        return f"{model} {metric}"

    assert plan(1, metric="fisher") == "1 fisher"
    with pytest.raises(LowRankError, match="no argument 'metirc': did you mean 'metric'"):
        plan(1, metirc="fisher")  # type: ignore[call-arg]


@dataclass(frozen=True)
class Layer:
    ranks: tuple[int, ...]
    error: float
    note: str | None = None


@dataclass(frozen=True)
class Report:
    layers: Mapping[str, Layer]
    total: int


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    report = Report({"a.b": Layer((2, 3), 0.1), "": Layer((), 1e-300, "root")}, 3)
    save_record(tmp_path / "new" / "report.json", report)
    assert load_record(tmp_path / "new" / "report.json", Report, "run it again") == report


def test_no_record_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(LowRankError, match="NaN or Inf"):
        save_record(tmp_path / "report.json", Layer((), math.nan))
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "run it again"),
        ("{", "run it again"),
        ('{"layers": {"a": {"ranks": "2", "error": 1}}, "total": 1}', "layers.a.ranks"),
        ('{"layers": {"a": {"ranks": [2.5], "error": 1}}, "total": 1}', "layers.a.ranks.0"),
        ('{"layers": {}, "total": null}', "total"),
    ],
)
def test_what_is_no_record_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(LowRankError, match=r"^[^\n]*$") as error:
        load_record(tmp_path / "report.json", Report, "run it again")
    assert told in str(error.value) and "run it again" in str(error.value)


@options
class Inner:
    size: int = knob(1, ge=1, help="a size")


@options
class Section:
    kind: Literal["greedy", "exact"] = knob(help="the solver")
    share: float = knob(0.5, gt=0, lt=1, help="a fraction")
    patterns: tuple[str, ...] = knob(("*",), min_length=1, help="names")
    inner: Inner | None = knob(None, help="options inside options")
    named: dict[str, Inner] | None = knob(None, help="options by name")
    case: Case | None = knob(None, help="options with a check of their own")


def test_a_section_of_plain_values_becomes_typed() -> None:
    plain = {"kind": "exact", "patterns": ["a"], "named": {"x": {"size": 2}}}
    made = options_from(Section, plain, "section")
    assert made == Section("exact", patterns=("a",), named={"x": Inner(2)})
    whole = options_from(Section, {"kind": "exact", "share": 0.25}, "section").share
    assert whole == 0.25 and type(whole) is float


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "section.kind is not set: give it"),
        ({"kind": "exakt"}, "section.kind=exakt: unknown; did you mean 'exact'?"),
        ({"kind": "exact", "share": 1}, "section.share=1: choose a number below 1"),
        ({"kind": "exact", "share": None}, "section.share=null: choose a number"),
        ({"kind": "exact", "shar": 1}, "section.shar: unknown key; did you mean 'section.share'?"),
        ({"kind": "exact", "patterns": []}, "section.patterns=[]: give at least 1"),
        (
            {"kind": "exact", "inner": {"sice": 1}},
            "section.inner.sice: unknown key; did you mean 'section.inner.size'?",
        ),
        (
            {"kind": "exact", "named": {"x": {"sice": 1}}},
            "section.named.x.sice: unknown key; did you mean 'section.named.x.size'?",
        ),
        ({"kind": "exact", "named": {"x": {"size": 0}}}, "section.named.x.size=0: choose"),
        ({"kind": "exact", "case": {"most": 7}}, "section.case: seven sweeps are unlucky"),
    ],
)
def test_what_is_wrong_in_a_section_names_key_and_value(given: dict[str, Any], told: str) -> None:
    with pytest.raises(LowRankError, match=r"^[^\n]*$") as error:
        options_from(Section, given, "section")
    assert str(error.value).startswith(told)
