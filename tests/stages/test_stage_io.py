"""Parts that every stage shares: its section, JSON files, and one-line errors."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.data.options import DataOptions
from pipeline.lowrank import LowRankError
from stages._io import main, section, section_options, write_json
from tests.imports import ROOT


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sections_and_plain_values(here: Path) -> None:
    with pytest.raises(LowRankError, match=r"params.yaml is missing; run dvc repro"):
        section("data")
    (here / "params.yaml").write_text("seed: 7\ndata: {name: digits}\n")
    assert section("seed") == 7
    assert section("data") == {"name": "digits"}
    assert section_options("data", DataOptions) == DataOptions(name="digits")
    with pytest.raises(LowRankError, match=r"params.yaml has no section 'model'"):
        section("model")


def test_json(here: Path) -> None:
    write_json(Path("out/a.json"), {"b": [1.5], "a": None})
    text = Path("out/a.json").read_text()
    assert text == '{\n  "a": null,\n  "b": [\n    1.5\n  ]\n}\n'
    with pytest.raises(LowRankError, match=r"out/a.json: a result is NaN or Inf"):
        write_json(Path("out/a.json"), {"loss": float("nan")})
    assert Path("out/a.json").read_text() == text


def test_errors_for_people_have_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken() -> None:
        raise LowRankError("data.test=0: too small; choose more")

    with pytest.raises(SystemExit) as stopped:
        main(mistaken)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: data.test=0: too small; choose more\n"


@pytest.mark.parametrize(
    "error",
    [KeyError("a bug"), OSError("no file in it"), RuntimeError("first line\nsecond line")],
)
def test_what_nobody_foresaw_is_one_line_and_a_log(
    error: Exception, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        main(broken)
    assert stopped.value.code == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {type(error).__name__}: ") and line.count("\n") == 1
    (log,) = (here / ".scratch/logs").iterdir()
    assert str(log.relative_to(here)) in line
    written = log.read_text()
    assert "in broken\n    raise error" in written and str(error) in written


def full_by_python() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "out/a.json")


def full_by_torch() -> None:
    torch.save({"a": torch.zeros(100_000)}, "a.pt")


def full_by_safetensors() -> None:
    save_file({"a": torch.zeros(100_000)}, "a.safetensors")


@pytest.mark.parametrize("write", [full_by_python, full_by_torch, full_by_safetensors])
def test_a_full_disk_is_one_line(
    write: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever writes. The limit of a file's size stands for the disk's: both end a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    deaf = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(SystemExit):
            main(write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, deaf)
    line = capsys.readouterr().err
    assert "the disk is full, or a file may not grow; free some space" in line
    assert line.count("\n") == 1


def test_a_reader_that_has_enough_is_no_fault() -> None:
    code = (
        "from pipeline.machine.faults import one_line\n"
        "with one_line('many'):\n    for _ in range(10**5): print('a line')"
    )
    command = f'{sys.executable} -c "$1" | head -1'
    done = subprocess.run(
        ["bash", "-c", command, "bash", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.stdout, done.stderr) == ("a line\n", "")
