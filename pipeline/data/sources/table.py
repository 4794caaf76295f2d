"""Tables: Parquet, CSV or JSON Lines, with columns of features and of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.data.labels import Numbering, number_classes, read_labels, several_of
from pipeline.data.options import DataOptions
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.rows import Pool
from pipeline.data.sources.columns import Columns, blocks, features, header, numbers
from pipeline.data.sources.items import Reservoir
from pipeline.data.sources.raw import RawData, Request
from pipeline.data.splits import Values, unnamed
from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import check_sha256, content_sha256, files_at

_LABELS = ("label", "labels", "target")
_Part = tuple[Values, Values | None, Numbering | None]


def read_table(request: Request) -> RawData:
    """`data.path`: a file, a folder or a pattern; `data.test_path` likewise for a test split of its
    own. Columns of numbers, or of lists of numbers, are the input, or several by `data.inputs`;
    `data.labels` are one column (classes, a value, or lists of classes), or several.

    Raises LowRankError that names the column and the row of what is no number.
    """
    options = request.options
    if options.path is None:
        raise LowRankError("data.path is null: the source table needs a file; set data.path")
    sha256: dict[str, str] = {}
    whole = _read(request, options.path, options.sha256, sha256, "", options.class_names)
    inputs, labels, numbering = whole
    names = None if numbering is None else numbering.names
    test: _Part | tuple[None, None, None] = (None, None, None)
    if options.test_path is not None:
        test = _read(request, options.test_path, options.test_sha256, sha256, "test", names)
    return RawData(
        inputs=inputs,
        labels=labels,
        class_names=None if names is None else list(names),
        sha256=sha256,
        source=Path(options.path).name,
        test_inputs=test[0],
        test_labels=test[1],
        complete=options.class_names is None,
        preprocessing=Preprocessing(columns=dict(_groups(options, header(options.path)))),
    )


def _read(
    request: Request,
    path: str,
    pin: str | None,
    sha256: dict[str, str],
    part: str,
    given: Sequence[str] | None,
) -> _Part:
    """(inputs, labels, classes) of one table."""
    options, place, key = request.options, Path(path), f"data.{part}{'_' if part else ''}"
    actual = content_sha256(place) if files_at(place) else ""
    if not actual:
        raise LowRankError(f"{key}path={path}: no such file; correct {key}path")
    if pin is not None:
        check_sha256(path, actual, pin, f"it is another version: correct {key}sha256, or null")
    sha256[place.name] = actual
    names = header(path)
    groups, labels = _groups(options, names), _label_columns(options, names)
    folder = request.scratch / (part or "examples")
    folder.mkdir()
    pool, kept = Pool(folder, place.name), _Labels(request, labels, place.name)
    reservoir = Reservoir(None if part else options.limit, request.seed)
    row = 0
    for block in blocks(files_at(place), [c for g in groups.values() for c in g] + list(labels)):
        _add(block, row, groups, pool, kept, reservoir, place.name)
        row += len(next(iter(block.values())))
    if not len(pool):
        raise LowRankError(f"{place.name}: holds no rows; give some")
    inputs = unnamed("inputs", pool.tensors())
    assert inputs is not None
    return (inputs, *kept.finish(given))


def _add(
    block: Columns,
    first: int,
    groups: Mapping[str, Sequence[str]],
    pool: Pool,
    labels: _Labels,
    reservoir: Reservoir,
    source: str,
) -> None:
    """Puts the rows of a block into the pool and their labels beside them."""
    arrays = {
        f"inputs.{name}" if name else "inputs": features(block, columns, first, source)
        for name, columns in groups.items()
    }
    count = len(next(iter(block.values())))
    places = [reservoir.place(first + index) for index in range(count)]
    if places == list(range(first, first + count)):
        pool.extend(arrays)
        labels.extend(block)
        return
    for index, place in enumerate(places):
        if place is not None:
            row = {name: value[index] for name, value in arrays.items()}
            (pool.append if place >= len(pool) else lambda r, at=place: pool.replace(at, r))(row)
            labels.put(place, block, index)


class _Labels:
    """The label columns' values, row by row."""

    def __init__(self, request: Request, columns: Sequence[str], source: str) -> None:
        self._columns, self._source = columns, source
        self._kind = request.task.labels
        self._rows: list[list[Any]] = []

    def extend(self, block: Columns) -> None:
        if self._columns:
            self._rows += map(list, zip(*(block[name] for name in self._columns), strict=True))

    def put(self, place: int, block: Columns, index: int) -> None:
        row = [block[name][index] for name in self._columns]
        if place < len(self._rows):
            self._rows[place] = row
        else:
            self._rows.append(row)

    def finish(self, given: Sequence[str] | None) -> tuple[Values | None, Numbering | None]:
        kind: str | None = self._kind
        source, columns = self._source, self._columns
        if not columns or kind is None:
            return None, None
        if kind in ("class", "classes") and len(columns) == 1:
            number = number_classes if kind == "class" else several_of
            return number([row[0] for row in self._rows], given, source)
        if kind == "any" and len(columns) == 1 and isinstance(self._rows[0][0], str):
            return number_classes([row[0] for row in self._rows], given, source)
        if kind == "class":
            raise LowRankError(
                f"data.labels={list(columns)}: a class is one column; give one, or choose "
                "task=multilabel"
            )
        found = torch.empty(len(self._rows), len(columns))
        for index, name in enumerate(columns):
            values = [row[index] for row in self._rows]
            found[:, index] = numbers(values, name, 0, source).to(torch.float32)
        names = given if kind != "classes" or given else columns
        return read_labels(found[:, 0] if len(columns) == 1 else found, kind, source, given=names)


def _label_columns(options: DataOptions, names: Sequence[str]) -> tuple[str, ...]:
    found = options.labels
    if found is None:
        found = tuple(name for name in _LABELS if name in names)[:1]
    _check_there(found, names, "labels")
    return found


def _groups(options: DataOptions, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{input, "" for a single one: its columns}."""
    if options.inputs is not None:
        for columns in options.inputs.values():
            _check_there(columns, names, "inputs")
        return dict(options.inputs)
    if options.columns is not None:
        _check_there(options.columns, names, "columns")
        return {"": options.columns}
    labels = _label_columns(options, names)
    return {"": tuple(name for name in names if name not in labels)}


def _check_there(columns: Sequence[str], names: Sequence[str], key: str) -> None:
    for name in columns:
        if name not in names:
            raise LowRankError(
                f"data.{key}: no column {name!r} among {', '.join(names)}; correct data.{key}"
            )
