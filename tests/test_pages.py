"""The pages for readers: links lead somewhere, words are explained, made pages are not stale."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from docs.make.__main__ import made
from pipeline import lowrank
from tests.imports import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Of the vocabulary of the code and of the concepts: each has a line in the glossary.
WORDS = """rank ranks core factors left right mode unfold fold spectrum energy relative_error budget
compression_ratio break_even_rank dense calibration target metric candidate plan macs latency_ms
form method policy task report pivot contest refit certificate adapter moments divergence tail
expected sweep chain stage door repair contract planted"""
CONCEPTS = [
    "Target",
    "Metric",
    "Spectrum",
    "Candidate",
    "Form",
    "Method",
    "Policy",
    "Plan",
    "Task",
    "Report",
]


def anchors(page: Path) -> set[str]:
    """The anchors that a link may name behind #, as GitHub makes them from the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]:
        assert page.name == "index.md" or f"({page.name})" in index, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_speaks_of_the_source_without_saying_what_it_is(page: Path) -> None:
    """The mathematics comes from the course module, which docs/theorems.md names."""
    assert not re.search(r"\b[Tt]he source(?:'s)?\b", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_formula_is_taken_for_emphasis(page: Path) -> None:
    """∏_{j>l} … W_j outside of backticks would lose its underscores."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        for part in token.children or ():
            assert (part.type, part.markup) != ("em_open", "_"), token.content


def test_the_glossary_has_every_word_in_one_sentence() -> None:
    lines = re.findall(r"^\| (\w[^|]*) \| (.+) \|$", (ROOT / "docs/glossary.md").read_text(), re.M)
    explained = {word.strip(): meaning for word, meaning in lines}
    assert not set(WORDS.split()) - set(explained)
    for word, meaning in explained.items():
        assert len(meaning) < 200, word
        assert ". " not in meaning, word


def test_every_concept_has_its_section() -> None:
    text = (ROOT / "docs/concepts.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(CONCEPTS) <= set(sections)
    for name, section in sections.items():
        assert "In code: [" in section, name


def test_made_pages_are_what_the_code_gives_now() -> None:
    for name, text in made().items():
        assert (ROOT / name).read_text() == text, f"{name} is stale: python -m docs.make"


def test_the_readme_says_what_its_picture_shows() -> None:
    """The caption's figures are those that benchmarks.overview measured."""
    dense, *compressed = json.loads((ROOT / "docs/overview.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for network in compressed[1:]:
        assert network["latency_ms"] < dense["latency_ms"]
        assert f"{dense['latency_ms'] / network['latency_ms']:.1f} times as fast" in readme
        assert f"{dense['params'] / network['params']:.1f} times fewer parameters" in readme
        assert f"{(dense['accuracy'] - network['accuracy']) * 100:.1f} points" in readme


def test_the_api_has_every_name_at_the_door() -> None:
    headings = set(re.findall(r"^### `(\w+)`$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert headings == set(lowrank.__all__)
