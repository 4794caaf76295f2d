"""Parts that every stage shares: its section, JSON files, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.options import DataOptions
from pipeline.lowrank import LowRankError
from stages._io import main, section, section_options, write_json


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

    def broken() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match=r"a bug"):
        main(broken)
