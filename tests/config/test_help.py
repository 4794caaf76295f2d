"""python -m pipeline --help: every option with its sentence, every key, at any width."""

from __future__ import annotations

import io
import re
import shlex

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.config.compose import check_overrides
from pipeline.config.configuration import Configuration
from pipeline.config.groups import LAUNCHERS, PRESETS, SWEEPERS, group_names, group_options
from pipeline.config.help import print_help, version
from pipeline.config.knobs import inner_options, knobs
from pipeline.lowrank.errors import LowRankError
from tests.imports import ROOT

CONF = ROOT / "conf"


def shown(*sections: str, width: int = 80) -> str:
    """The page as a pipe gets it."""
    file = io.StringIO()
    print_help(ROOT, sections, Console(file=file, width=width, highlight=False))
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_pages_fit_and_are_plain_in_a_pipe(width: int) -> None:
    for page in (
        shown(width=width),
        *(shown(s, width=width) for s in inner_options(Configuration)),
    ):
        assert all(cell_len(line) <= width for line in page.splitlines())
        assert not any(line.endswith(" ") for line in page.splitlines())
        assert "\x1b" not in page


def test_the_page_has_every_option_and_says_how_to_go_on() -> None:
    page = shown()
    assert page.startswith(version(ROOT))
    for group in [*group_names(CONF), PRESETS, LAUNCHERS, SWEEPERS]:
        assert re.search(rf"^  {group}\b", page, re.MULTILINE)
        for option in group_options(CONF, group):
            words = option.sentence.split()[:2]
            assert re.search(
                rf"^    {option.name}( \*)?  +{re.escape(' '.join(words))}", page, re.MULTILINE
            )
    for word in ("--resume SWEEP", "--help [SECTION]", "--version", "--hydra-help", "README.md"):
        assert word in page
    assert "_base" not in page


def test_its_examples_work() -> None:
    lines = [line.strip() for line in shown(width=60).splitlines()]
    start = lines.index("examples")
    examples = [line for line in lines[start : start + 12] if line.startswith("python -m pipeline")]
    assert len(examples) >= 4
    for line in examples:
        check_overrides(CONF, [word for word in shlex.split(line)[3:] if word != "-m"])


@pytest.mark.parametrize("section", inner_options(Configuration))
def test_a_section_shows_every_key_with_default_and_meaning(section: str) -> None:
    page = " ".join(shown(section).split())
    for knob in knobs(inner_options(Configuration)[section]):
        assert " ".join(f"{section}.{knob.name}={knob.written} {knob.accepts}".split()) in page
        assert " ".join(knob.help.split()) in page


def test_a_section_may_be_named_by_an_override_or_a_key() -> None:
    assert shown("rank_select.budget=0.4") == shown("rank_select") == shown("rank_select=energy")
    assert "seed=0" in shown("seed")
    with pytest.raises(LowRankError, match=r"rank_selct: no such section; did you mean 'rank_s"):
        shown("rank_selct")
