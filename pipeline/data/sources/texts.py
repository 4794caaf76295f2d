"""Text for language models: files, folders, packages or a data set of the `datasets` library."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.data.sources.hub import is_saved, load
from pipeline.data.sources.lines import json_rows
from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.machine.checksums import check_sha256, content_sha256, files_at
from pipeline.machine.fetching import DATASETS, DEBIAN, PYPI, locate

_PLAIN, _MARKUP, _ROWS = (".txt", ".md", ".rst"), (".html", ".htm"), (".jsonl", ".parquet")
_SUFFIXES = (*_PLAIN, *_MARKUP, *_ROWS)


@dataclass(frozen=True)
class Document:
    """A text that belongs together (a chapter, an article, a row); no split cuts through it.
    `label` is its label as it was read, `target` the text that answers it; None where no such
    column was asked for. The words of a row may be a list."""

    text: str | list[str]
    label: Any = None
    target: str | None = None


@dataclass(frozen=True)
class _Columns:
    """The names of a row's columns: the text, its label and the text that answers it, or None."""

    text: str = "text"
    label: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Corpus:
    """Documents in the order in which they were read; `sha256` is their checksum, and `name` has no
    machine's paths."""

    documents: list[Document]
    sha256: str
    name: str


def read_texts(
    path: str,
    sha256: str | None,
    *,
    text_column: str,
    label_column: str | None,
    target_column: str | None = None,
) -> Corpus:
    """Reads .txt, .md, .rst (a form feed starts a new document), .html (prose without listings,
    tables and navigation), .jsonl and .parquet (a row is a document).

    `path`: a file, a folder, a glob, debian:PACKAGE/PATH, datasets:NAME[:CONFIG[:SPLIT]], or a
    folder that the library datasets saved.
    Files of a folder come in the order in which its index.html names them, then by name.
    `sha256` is the `content_sha256` of what lies there. Empty documents are left out.
    Raises LowRankError for what is missing, unreadable, of another checksum or empty, and, with its
    number, for a row without a text.
    """
    columns = _Columns(text_column, label_column, target_column)
    if path.startswith(DATASETS):
        documents, actual = _from_datasets(path, columns)
        name = path.removeprefix(DATASETS)
    elif is_saved(Path(path)):
        documents = list(_documents(_one_split(path), path, columns))
        name, actual = Path(path).name, content_sha256(Path(path))
    else:
        place = locate(path)
        documents = [d for file in _files(place) for d in _read(file, columns)]
        packaged = path.startswith((PYPI, DEBIAN))
        name = path.partition(":")[2].partition("/")[0] if packaged else place.name
        actual = content_sha256(place)
    if sha256 is not None:
        check_sha256(path, actual, sha256, "it is another version: correct the checksum, or null")
    documents = [d for d in documents if (d.text if isinstance(d.text, list) else d.text.strip())]
    if not documents:
        raise LowRankError(f"{path}: holds no text; give files with text in them")
    return Corpus(documents, actual, name)


def _files(place: Path) -> list[Path]:
    files = files_at(place)
    if place.is_dir():
        files = _in_reading_order(place / "index.html", [f for f in files if f.suffix in _SUFFIXES])
    if not files:
        raise LowRankError(f"{place}: no text files there; give a file, a folder or a pattern")
    for file in files:
        if file.suffix not in _SUFFIXES:
            raise LowRankError(f"{file}: not read; give one of {', '.join(_SUFFIXES)}")
    return files


def _in_reading_order(index: Path, files: list[Path]) -> list[Path]:
    """The files that a book's index.html names, in its order, and then the others by name."""
    if not index.is_file():
        return files
    named = re.findall(r'href="([^"#]+)', index.read_text(errors="replace"))
    place = {index.parent / name: number for number, name in reversed(list(enumerate(named)))}
    return sorted((f for f in files if f != index), key=lambda f: place.get(f, len(named)))


def _read(file: Path, columns: _Columns) -> Iterator[Document]:
    if file.suffix in _ROWS:
        yield from _documents(_rows(file), str(file), columns)
        return
    for key in ("label", "target"):
        if (column := getattr(columns, key)) is not None:
            raise LowRankError(
                f"data.text.{key}_column={column}: {file.name} has no columns; give .jsonl or "
                ".parquet files, or set it to null"
            )
    try:
        text = file.read_text(encoding="utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise LowRankError(f"{file}: not UTF-8 ({error.reason}); convert it") from error
    if file.suffix in _MARKUP:
        yield Document(prose(text))
    else:
        yield from (Document(part.strip()) for part in text.split("\f"))


def _rows(file: Path) -> Iterable[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return json_rows(file)
    try:
        import pyarrow.parquet  # comes with MLflow; a second that other sources save

        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    except (ValueError, OSError, LookupError, OverflowError) as error:
        raise LowRankError(f"{file}: cannot be read ({reason_of(error)})") from error
    return rows


def _one_split(path: str) -> Iterable[dict[str, Any]]:
    """The rows of a folder that the library datasets saved: of its split "train", or its only
    one."""
    found, _, _ = load(path, None)
    if not isinstance(found, dict):
        rows: Iterable[dict[str, Any]] = found
        return rows
    if "train" not in found and len(found) > 1:
        raise LowRankError(
            f"{path}: has the splits {', '.join(found)} and none called train; give the folder of "
            "one of them"
        )
    chosen: Iterable[dict[str, Any]] = found.get("train", next(iter(found.values())))
    return chosen


def _from_datasets(path: str, columns: _Columns) -> tuple[list[Document], str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise LowRankError(f"{path}: needs pip install 'lowrank-pipeline[transformers]'") from error
    name, config, split = (*path.removeprefix(DATASETS).split(":"), "", "")[:3]
    try:
        rows = load_dataset(name, config or None, split=split or "train")
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise LowRankError(
            f"{path}: cannot be loaded ({reason}); give local files in data.path instead"
        ) from error
    documents = list(_documents(rows, path, columns))
    content = json.dumps([(d.text, d.label) for d in documents])
    return documents, hashlib.sha256(content.encode()).hexdigest()


def _documents(
    rows: Iterable[dict[str, Any]], source: str, columns: _Columns
) -> Iterator[Document]:
    for number, row in enumerate(rows):
        for key in ("text", "label", "target"):
            column = getattr(columns, key)
            if column is not None and column not in row:
                raise LowRankError(
                    f"{source}: no column {column!r} among {', '.join(row)}; correct "
                    f"data.text.{key}_column"
                )
            if key != "label" and column is not None:
                _check_text(row[column], f"{source}: row {number}", column, words=key == "text")
        yield Document(
            row[columns.text],
            None if columns.label is None else row[columns.label],
            None if columns.target is None else row[columns.target],
        )


def _check_text(value: Any, place: str, column: str, *, words: bool) -> None:
    listed = words and isinstance(value, list) and all(isinstance(word, str) for word in value)
    if not isinstance(value, str) and not listed:
        shown = "null" if value is None else f"{type(value).__name__}, no text"
        raise LowRankError(f"{place}: {column!r} is {shown}; give a text, or leave the row out")


def prose(markup: str) -> str:
    """Paragraphs of an HTML page, a blank line between them."""
    reader = _Prose()
    reader.feed(markup)
    paragraphs = (" ".join(part.split()) for part in "".join(reader.parts).split("\f"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


class _Prose(HTMLParser):
    """Collects text in `parts`, a form feed at the borders of blocks."""

    _BLOCKS = re.compile("p|div|section|article|h[1-6]|[uod]l|li|d[td]|blockquote")
    _LEFT_OUT = re.compile("head|script|style|pre|table|nav|header|footer")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside: list[str] = []  # open elements from the one that is left out

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        marks = " ".join(value or "" for key, value in attrs if key in ("class", "id"))
        if self._inside:
            if tag == self._inside[0]:
                self._inside.append(tag)
        # DocBook, Publican, Sphinx and Drupal all call it …nav….
        elif self._LEFT_OUT.fullmatch(tag) or (
            tag in ("div", "ul") and re.search("nav|banner", marks)
        ):
            self._inside.append(tag)
        elif self._BLOCKS.fullmatch(tag):
            self.parts.append("\f")

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            if tag == self._inside[0]:
                self._inside.pop()
        elif self._BLOCKS.fullmatch(tag):
            self.parts.append("\f")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.parts.append(data)
