"""Who imports whom: read from the source, lazily imported modules included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ("pipeline", "stages")


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
