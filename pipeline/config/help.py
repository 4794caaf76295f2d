"""python -m pipeline --help: the options that there are, and how to type them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.config.configuration import Configuration
from pipeline.config.groups import LAUNCHERS, PRESETS, SWEEPERS, group_names, group_options
from pipeline.config.knobs import inner_options, knobs
from pipeline.lowrank.errors import LowRankError, suggest

_USAGE = (
    ("[GROUP=OPTION | KEY=VALUE] …", "one run"),
    ("-m GROUP=OPTION,… KEY=VALUE,… …", "a sweep: all combinations"),
    ("--resume SWEEP", "what is missing of a sweep; SWEEP is its folder"),
    (
        "plan [GROUP=OPTION | KEY=VALUE] …",
        "the plan of a run and what it expects; builds nothing",
    ),
    ("export RUN to=torch,onnx out=DIR", "a network as files that load without this project"),
    ("extract_lora KEY=VALUE …", "the difference of two checkpoints as a LoRA adapter"),
    ("report SWEEP", "the comparison of a sweep's runs, made again"),
    ("share push|pull", "all results to the DVC remote, or from it"),
    ("--help [SECTION]", "this page; the options and keys of a section"),
    ("--version", "of this project"),
)
_EXAMPLES = (
    ("", "the chain as conf/ has it, on handwritten digits: about a minute"),
    ("rank_select.budget=0.4 fine_tune=none", "keeps 40 % of the parameters, trains nothing"),
    ("methods=svd rank_select=error", "another method, and ranks by the error of each layer"),
    ("-m methods=svd,tucker2 seed=0,1", "four runs, compared on one page"),
    ("experiment=fashion_mnist", "a preset; about a quarter of an hour"),
)
_HYDRA = (
    ("--cfg job", "shows the configuration and runs nothing"),
    ("--info", "how Hydra composes it"),
    ("-sc install=bash", 'completion by Tab: eval "$(lowrank -sc install=bash)"; zsh, fish too'),
    ("--hydra-help", "all flags of Hydra, which reads the command line"),
)
_PROGRAM = "python -m pipeline"


def version(root: Path) -> str:
    """Name and version of this project."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return f"{project['name']} {project['version']}"


def print_help(root: Path, sections: Sequence[str], console: Console | None = None) -> None:
    """The page of the whole command, or of the sections that are named.

    Raises LowRankError for a section that doesn't exist, with the nearest name.
    """
    console = console or Console(highlight=False)
    conf = root / "conf"
    pages = [_section_page(conf, _section(name)) for name in sections] or [_page(root, conf)]
    with console.capture() as capture:
        for page in pages:
            console.print(page)
    # Tables fill their lines; nobody wants the blanks in a file.
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), file=console.file)


def _page(root: Path, conf: Path) -> RenderableType:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return Group(
        Text(f"{version(root)}: {project['description']}"),
        _title("usage"),
        _indented(f"Where the project is installed, lowrank is short for {_PROGRAM}."),
        _commands(_USAGE),
        _title("examples"),
        _commands(_EXAMPLES),
        _title("groups"),
        _indented("Each sets the section of its name; * is the default."),
        *_groups(conf),
        _title("Hydra's own flags"),
        _commands(_HYDRA),
        _title("where to read on"),
        _indented(
            f"{_PROGRAM} --help rank_select, for example, shows every key of a section with its "
            "default, range and meaning; docs/configuration.md has all of them. README.md is the "
            "way in, docs/sweeps.md tells about sweeps and clusters."
        ),
    )


def _section(named: str) -> str:
    """The section of an override or a key: rank_select of rank_select.budget=0.4."""
    return named.partition("=")[0].partition(".")[0]


def _section_page(conf: Path, name: str) -> RenderableType:
    sections = {knob.name: knob for knob in knobs(Configuration)}
    known = [*sections, *(group for group in _all_groups(conf) if group not in sections)]
    if name not in known:
        raise LowRankError(f"--help {name}: no such section; {suggest(name, known)}")
    parts: list[RenderableType] = [Text(name, style="bold")]
    if name in sections:
        parts.append(_indented(sections[name].help))
    if name in _all_groups(conf):
        parts += [_title("options"), _indented(_options(conf, name))]
    cls = inner_options(Configuration).get(name)
    if cls is not None:
        parts += [_title("keys, with their defaults"), *_keys(name, cls)]
    elif name in sections and not sections[name].required:
        parts += [
            _title("key, with its default"),
            _key(name, sections[name].written, sections[name].accepts, ""),
        ]
    return Group(*parts)


def _keys(section: str, cls: type) -> Iterator[RenderableType]:
    inner = inner_options(cls)
    for knob in knobs(cls):
        yield _key(f"{section}.{knob.name}", knob.written, knob.accepts, knob.help)
        if knob.name in inner:
            yield from _keys(f"{section}.{knob.name}", inner[knob.name])


def _key(key: str, default: str, accepts: str, meaning: str) -> RenderableType:
    line = Text.assemble((key, "bold"), f"={default}")
    if accepts:
        line.append(f"  {accepts}", style="dim")
    rows: list[RenderableType] = [Padding(line, (0, 0, 0, 2), expand=False)]
    if meaning:
        rows.append(Padding(Text(meaning), (0, 0, 0, 6), expand=False))
    return Group(*rows)


def _groups(conf: Path) -> Iterator[RenderableType]:
    meanings = {knob.name: knob.help for knob in knobs(Configuration)}
    for group in _all_groups(conf):
        head = Text(group, style="bold")
        head.append(f"  {meanings[group]}" if group in meanings else "", style="not bold")
        yield Padding(head, (1, 0, 0, 2), expand=False)
        yield Padding(_options(conf, group, short=True), (0, 0, 0, 4), expand=False)


def _options(conf: Path, group: str, *, short: bool = False) -> Table:
    """A table of the options of a group, each with its description; `short` keeps the first
    sentence."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=18)
    table.add_column()
    chosen = _defaults(conf).get(group)
    for option in group_options(conf, group):
        mark = " *" if option.name == chosen else ""
        words = option.sentence.partition(". ")[0].removesuffix(".") if short else option.sentence
        table.add_row(Text(option.name + mark), Text(words))
    return table


def _all_groups(conf: Path) -> list[str]:
    order = [knob.name for knob in knobs(Configuration)]
    return [*sorted(group_names(conf), key=order.index), PRESETS, LAUNCHERS, SWEEPERS]


def _defaults(conf: Path) -> dict[str, str]:
    """{group: the option that conf/config.yaml chooses}."""
    entries = yaml.safe_load((conf / "config.yaml").read_text())["defaults"]
    return {k: v for entry in entries if isinstance(entry, dict) for k, v in entry.items()}


def _commands(lines: Sequence[tuple[str, str]]) -> RenderableType:
    """Each command on a line of its own, what it does below."""
    rows: list[RenderableType] = []
    for arguments, meaning in lines:
        rows.append(Padding(Text(f"{_PROGRAM} {arguments}".strip()), (0, 0, 0, 2), expand=False))
        rows.append(Padding(Text(meaning, style="dim"), (0, 0, 0, 6), expand=False))
    return Group(*rows)


def _title(text: str) -> RenderableType:
    return Padding(Text(text, style="bold"), (1, 0, 0, 0), expand=False)


def _indented(content: str | RenderableType) -> RenderableType:
    return Padding(
        Text(content) if isinstance(content, str) else content, (0, 0, 0, 2), expand=False
    )
