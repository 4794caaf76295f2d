"""docs/theorems.md names functions, tests and figures: all of them exist."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/theorems.md").read_text()
FIRST, SECOND = TEXT.split("## Statements of the course module")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in FIRST.splitlines()
    if line.startswith("| ") and not line.startswith("| statement")
]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def words(tree: ast.AST) -> set[str]:
    """Identifiers and strings of the code: what may name a file or a key."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return found


KNOWN = set().union(
    *(
        words(ast.parse(path.read_text()))
        for folder in ("pipeline", "stages")
        for path in (ROOT / folder).rglob("*.py")
    )
)
TESTS = {
    f"{path.relative_to(ROOT / 'tests')}::{node.name}"
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef)
}


def test_the_table_has_every_theorem_and_four_columns() -> None:
    assert all(len(row) == 4 for row in ROWS)
    named = {int(number) for row in ROWS for number in re.findall(r"\*\*T(\d+)\*\*", row[0])}
    assert named == set(range(1, 11))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_row_names_what_exists(row: list[str]) -> None:
    _, functions, tests, logged = row
    assert quoted(functions) and quoted(tests)
    for name in quoted(functions):
        module, _, last = name.rpartition(".")
        assert hasattr(import_module(f"pipeline.{module}"), last), name
    assert set(quoted(tests)) <= TESTS
    figures = quoted(logged)
    assert figures or logged.startswith("not logged")
    check_figures(figures)


def test_counterexamples_are_tests() -> None:
    names = quoted(SECOND)
    tests = [name for name in names if "::" in name]
    assert len(tests) >= 7
    assert set(tests) <= TESTS
    check_figures([name for name in names if "::" not in name])


def check_figures(figures: list[str]) -> None:
    for figure in figures:
        file, _, key = figure.partition(":")
        stem = Path(file).stem
        assert {file, Path(file).name, stem} & KNOWN, figure
        for part in key.split(".") if key else []:
            # The level of energy_90 is an argument of the code that writes it.
            assert part in KNOWN or re.sub(r"\d+$", "", part) in KNOWN, figure
