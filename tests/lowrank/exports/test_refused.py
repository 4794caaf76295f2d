"""What is no export, and what can't become one: one line, and the folder is as it was."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank.exports import FORMATS
from pipeline.lowrank.exports.base import Format, Job, Written

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


class Toy(Format):
    """A format whose folder says nothing, but for a `usage` that the test gives."""

    name, loses, packages = "toy", "Everything.", ("torch",)
    usage = ""

    def write(self, job: Job, folder: Path) -> Written:
        (folder / "toy.txt").write_text("a toy")
        return Written(self.usage)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a format": (lambda f: lr.export(net(), f, "onxx", example=X), "did you mean 'onnx'"),
    "an argument": (
        lambda f: lr.export(net(), f, fom="plain"),  # type: ignore[call-arg]
        "export has no argument 'fom': did you mean 'form'",
    ),
    "a form": (
        lambda f: lr.export(net(), f, example=X, form="plane"),  # type: ignore[arg-type]
        "form='plane': unknown; did you mean 'plain'",
    ),
    "no example": (lambda f: lr.export(net(), f), "to=torch: give example=, a batch"),
    "no transformer": (
        lambda f: lr.export(net(), f, "huggingface", example=X),
        "Sequential is no model of transformers; choose to=torch, onnx or pt2",
    ),
    "a shape": (
        lambda f: lr.export(net(), f, "pt2", example=torch.randn(2, 7)),
        r"example \(0: \[2, 7\]\): the network fails with it \(.*give a batch as it takes it",
    ),
    "a graph that is no file of torch, compiled": (
        lambda f: lr.export(net(), f, "onnx", example=X, aoti=True),
        "to=onnx: aoti is for pt2",
    ),
    "8 bits": (
        lambda f: lr.export(net(), f, example=X, int8=True),
        "to=torch: int8 is for huggingface, onnx",
    ),
    "8 bits without ranges": (
        lambda f: lr.export(net(), f, "onnx", example=X, int8=True),
        "to=onnx: int8 needs calibration=, a list of batches",
    ),
    "bfloat16 in ONNX": (
        lambda f: lr.export(net(), f, "onnx", example=X, dtype="bfloat16"),
        "to=onnx: dtype=bfloat16 runs in few runtimes; choose float16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_order_is_one_line(case: str, tmp_path: Path) -> None:
    act, message = REFUSED[case]
    with pytest.raises(lr.LowRankError, match=message) as info:
        act(tmp_path / "out")
    assert len(str(info.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(lr.LowRankError, match="is there already, and is no export"):
        lr.export(net(), tmp_path, example=X)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_package_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lr.LowRankError, match=r"pip install 'lowrank-pipeline\[onnx\]'"):
        lr.export(net(), tmp_path / "out", "onnx", example=X)


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        ("import pipeline", "an export must not need pipeline"),
        ("model = lambda x: x[:, :4]", "of the largest output away from the network's, more than"),
    ],
    ids=["needs the project", "another function"],
)
def test_an_export_that_does_not_stand_alone_is_not_written(
    usage: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy()
    toy.usage = usage
    monkeypatch.setitem(FORMATS, "toy", toy)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/export.json").write_text("an earlier export")
    with pytest.raises(lr.LowRankError, match=message) as info:
        lr.export(net(), tmp_path / "out", "toy", example=X)
    assert "\n" not in str(info.value)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["export.json"]


def test_machine_code_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(lr.LowRankError, match=r"there is no no-such-compiler: install one"):
        lr.export(net(), tmp_path / "out", "pt2", example=X, aoti=True)
    assert not list(tmp_path.iterdir())
