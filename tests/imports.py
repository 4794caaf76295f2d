"""Which module imports which: read from the code, lazily imported modules included.

python -m tests.imports

Writes into dvc.yaml the code that each stage depends on.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ("pipeline", "stages")
FILES = [p.relative_to(ROOT) for room in PROJECT for p in (ROOT / room).rglob("*.py")]


@cache
def module_file(module: str) -> Path | None:
    """The file of a project module, relative to the repository; None if there is none."""
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None


@cache
def imported(file: Path) -> frozenset[str]:
    """All modules that a file names in import statements, `from x import y` as x and x.y;
    those for the type checker only are left out."""
    names = set()
    for node in _nodes(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes(child)


def project_files(start: Path) -> set[Path]:
    """All project files that `start` imports, directly or not, with their packages' __init__."""
    found: set[Path] = set()
    queue = [start]
    while queue:
        file = queue.pop()
        if file in found:
            continue
        found.add(file)
        for name in imported(file):
            if name.split(".")[0] not in PROJECT:
                continue
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                target = module_file(".".join(parts[:length]))
                if target is not None:
                    queue.append(target)
    return found


@cache
def has_code(file: Path) -> bool:
    """Whether a file holds more than a docstring."""
    body = ast.parse((ROOT / file).read_text()).body
    return not all(isinstance(node, ast.Expr) for node in body)


def needed_by(command: str) -> set[Path]:
    """The files with code that a stage's command (`python -m stages.NAME`) imports."""
    module = Path(*command.split()[-1].split(".")).with_suffix(".py")
    return {file for file in project_files(module) if has_code(file)}


# A stage depends on a whole folder where it needs at least this part of its files: dvc.yaml stays
# readable, and what a stage needs a file or two of does not run it again.
MOST = 0.6


def code_deps(needed: set[Path]) -> list[str]:
    """Files as deps of a stage; the outermost folder below a room of which most is needed."""
    named = set()
    for file in needed:
        folders = reversed(file.parents[:-2])
        folder = next((f for f in folders if _share(f, needed) >= MOST), None)
        named.add((folder or file).as_posix())
    return sorted(named)


def _share(folder: Path, needed: set[Path]) -> float:
    inside = _all_of(folder)
    return len(inside & needed) / len(inside)


@cache
def _all_of(folder: Path) -> set[Path]:
    return {file for file in FILES if file.is_relative_to(folder) and has_code(file)}


def main() -> None:
    path, lines = ROOT / "dvc.yaml", []
    command, started = "", False
    for line in path.read_text().splitlines():
        if line.startswith("    cmd: "):
            command, started = line, False
        if re.match(rf"      - ({'|'.join(PROJECT)})/", line):
            if not started:
                lines += [f"      - {name}" for name in code_deps(needed_by(command))]
            started = True
        else:
            lines.append(line)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
