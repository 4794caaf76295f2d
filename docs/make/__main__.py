"""python -m docs.make: writes every page and picture that is made from the code."""

from __future__ import annotations

from docs.make import api, architecture
from tests.imports import ROOT


def made() -> dict[str, str]:
    """{path of a made file, relative to the repository: its text}, from the code as it is now."""
    return {**architecture.made(), **api.made()}


def main() -> None:
    for name, text in made().items():
        path = ROOT / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"{name}: written")


if __name__ == "__main__":
    main()
