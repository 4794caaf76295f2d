"""A page from its template: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

_HARD = "\N{NO-BREAK SPACE}"
_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: object) -> str:
    """The page of a template under the given names. What is shown is escaped; a name that the
    template does not know, or misses, is an error."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["file"] = _file
    environment.filters |= {"breakable": _breakable, "joined": _joined}
    return environment


def _file(name: str) -> Markup:
    """A style sheet or a script of ours, as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  # ours


def _breakable(name: str) -> Markup:
    """A dotted name, which a line may break after a dot."""
    return escape(name).replace(".", Markup(".<wbr>"))


def _joined(text: str) -> str:
    """Text with numbers that no line breaks from their units."""
    return text.replace(" %", f"{_HARD}%").replace(" ± ", f"{_HARD}±{_HARD}")
