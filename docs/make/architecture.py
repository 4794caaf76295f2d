"""docs/rooms.svg and docs/chain.svg: who imports whom, and which stage writes what."""

from __future__ import annotations

import ast
from pathlib import Path

import yaml

from docs.make.drawing import Table, svg
from tests.imports import FILES, ROOT, imported
from tests.test_architecture import LOWRANK, PIPELINE


def made() -> dict[str, str]:
    rooms = [
        _rooms("pipeline", PIPELINE, "Rooms of pipeline"),
        _rooms("pipeline/lowrank", LOWRANK, "Rooms of pipeline/lowrank, the library"),
    ]
    return {"docs/rooms.svg": svg(rooms), "docs/chain.svg": svg([_chain()])}


def _rooms(folder: str, names: tuple[str, ...], title: str) -> Table:
    marks = {(name, name): "itself" for name in names}
    prefix = folder.replace("/", ".")
    for name in names:
        for file in _files(folder, name):
            for module in imported(file):
                for other in names:
                    if other != name and f"{module}.".startswith(f"{prefix}.{other}."):
                        marks[name, other] = "uses"
    return Table(
        title,
        [(name, sentence_of(folder, name)) for name in names],
        names,
        marks,
        "A dot: the room of the row imports from the room of the column. Imports go one way, "
        "so no dot lies right of the grey ones.",
    )


def _files(folder: str, room: str) -> list[Path]:
    inside = Path(folder, room)
    return [f for f in FILES if f.is_relative_to(inside) or f == inside.with_suffix(".py")]


def sentence_of(folder: str, room: str) -> str:
    """The first sentence of the docstring of a room (a package, or a single module)."""
    path = ROOT / folder / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def _chain() -> Table:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    marks, files = {}, []
    for name, stage in stages.items():
        for out in [*stage["outs"], *stage.get("metrics", [])]:
            file = out if isinstance(out, str) else next(iter(out))
            column = _column(file)
            if column not in files:
                files.append(column)
            marks[name, column] = "writes"
    for name, stage in stages.items():
        read = [*stage["deps"], *(["params.yaml"] if "params" in stage else [])]
        for file in map(_column, read):
            if file in files and marks.get((name, file)) != "writes":
                marks[name, file] = "reads"
    return Table(
        "The chain",
        [(name, stage["desc"]) for name, stage in stages.items()],
        files,
        marks,
        "An orange dot: the stage writes the file or folder. A ring: it reads it.",
    )


def _column(file: str) -> str:
    """reports/ is one column; everything under out/ has its own."""
    return "reports" if file.startswith("reports") else file
