"""Files that are written from the options' classes: conf/GROUP/_base.yaml and
docs/configuration.md.

    python -m pipeline.config.files
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from pipeline.config.configuration import Configuration
from pipeline.config.groups import PRESETS, group_names, group_options
from pipeline.config.knobs import Knob, inner_options, knobs

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = "python -m pipeline.config.files"
_WIDTH = 100
# What an option accepts that its default and its meaning show already.
_PLAIN = ("", "true or false", "text", "text or null", "list of text")

_INTRODUCTION = f"""# Configuration

<!-- Written by {COMMAND} from the options' classes: edit those. -->

`python -m pipeline GROUP=OPTION KEY=VALUE …` runs the chain with overrides; `python -m pipeline
--help` shows the groups, `python -m pipeline --help SECTION` the keys of a section, as the tables
below do. A group sets the section of its name. A key that is *required* is set by each option of
its group, or by you.

Values are checked before anything runs. On a command line, lists are written `[a,b]`, mappings
`{{name: value}}` (in quotes, for the shell), nothing is `null`.
"""


def generated(root: Path) -> dict[Path, str]:
    """The content of every generated file, by its path relative to `root`."""
    files = {Path("docs/configuration.md"): _page(root / "conf")}
    for section, cls in inner_options(Configuration).items():
        files[Path("conf", section, "_base.yaml")] = _base(cls)
        for name, inner in inner_options(cls).items():
            files[Path("conf", section, f"_{name}.yaml")] = _base(inner)
    return files


def _base(cls: type) -> str:
    place = cls.__module__.replace(".", "/")
    lines = [f"# Written by {COMMAND} from {place}.py: edit that."]
    lines += [f"# {line}" for line in _wrapped(cls.__doc__ or "", _WIDTH - 2)]
    for knob in knobs(cls):
        meaning = knob.help if knob.accepts in _PLAIN else f"{knob.help} ({knob.accepts})"
        line = f"{knob.name}: {knob.written} # {meaning}"
        if len(line) > _WIDTH:
            lines += [f"# {part}" for part in _wrapped(meaning, _WIDTH - 2)]
            line = f"{knob.name}: {knob.written}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _page(conf: Path) -> str:
    parts, classes = [_INTRODUCTION], inner_options(Configuration)
    groups = group_names(conf)
    for knob in knobs(Configuration):
        parts.append(f"## {knob.name}\n\n{_sentence(knob.help)}\n")
        if knob.name in groups:
            parts.append(_options_table(conf, knob.name))
        if knob.name in classes:
            cls = classes[knob.name]
            parts.append(_knobs_table(knob.name, knobs(cls)))
            for name, inner in inner_options(cls).items():
                parts.append(_knobs_table(f"{knob.name}.{name}", knobs(inner)))
        elif not knob.required:
            parts.append(_knobs_table("", [knob]))
    parts.append(f"## {PRESETS}\n\nPresets of several sections.\n")
    parts.append(_options_table(conf, PRESETS))
    return "\n".join(parts)


def _options_table(conf: Path, group: str) -> str:
    rows = [f"| `{group}={o.name}` | {_cell(o.sentence)} |" for o in group_options(conf, group)]
    return "\n".join(["| option | |", "|---|---|", *rows]) + "\n"


def _knobs_table(section: str, found: list[Knob]) -> str:
    rows = [
        f"| `{section}{'.' if section else ''}{knob.name}` "
        f"| {'*required*' if knob.required else f'`{knob.written}`'} "
        f"| {_cell(knob.accepts)} | {_cell(knob.help)} |"
        for knob in found
    ]
    head = ["| key | default | range or choices | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _cell(text: str) -> str:
    """Text for a cell of a table, where * and | would be taken for Markdown."""
    return text.replace("|", "\\|").replace("*", "\\*")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width, break_long_words=False)


def main() -> None:
    for path, text in generated(ROOT).items():
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
