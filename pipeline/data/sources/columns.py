"""Columns of table files, in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.sources.lines import json_rows
from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.machine.checksums import files_at

_SUFFIXES = (".parquet", ".csv", ".jsonl")
_BLOCK = 4096  # rows
# {column: its values in some rows}.
Columns = dict[str, Sequence[Any]]


def header(path: str) -> tuple[str, ...]:
    """The columns of the first file."""
    files = files_at(Path(path))
    for file in files:
        if file.suffix not in _SUFFIXES:
            raise LowRankError(f"{file}: not read; give one of {', '.join(_SUFFIXES)}")
    if not files:
        raise LowRankError(f"data.path={path}: no such file; correct data.path")
    return tuple(next(iter(blocks(files[:1], None)), {}))


def blocks(files: Sequence[Path], columns: Sequence[str] | None) -> Iterator[Columns]:
    """The columns of .parquet, .csv and .jsonl files, all of them for None, a block after another.

    Raises LowRankError for a file that cannot be read, and a row that lacks a column.
    """
    for file in files:
        if file.suffix == ".jsonl":
            yield from _of_lines(file, columns)
        else:
            yield from _of_arrow(file, columns)


def _of_lines(file: Path, columns: Sequence[str] | None) -> Iterator[Columns]:
    rows, before = json_rows(file), 0
    while block := list(islice(rows, _BLOCK)):
        names = list(block[0]) if columns is None else list(dict.fromkeys(columns))
        for number, row in enumerate(block):
            if missing := [name for name in names if name not in row]:
                raise LowRankError(
                    f"{file}: row {before + number} has no {missing[0]!r}; give every row the "
                    "same columns"
                )
        before += len(block)
        yield {name: [row[name] for row in block] for name in names}


def _of_arrow(file: Path, columns: Sequence[str] | None) -> Iterator[Columns]:
    """Blocks of a Parquet or CSV file, by pyarrow."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    names = None if columns is None else list(dict.fromkeys(columns))
    try:
        if file.suffix == ".csv":
            # One block: what a column is follows from all of its rows.
            size = min(max(file.stat().st_size, 2**20), 2**31 - 1)
            batches = pyarrow.csv.open_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(block_size=size),
                convert_options=pyarrow.csv.ConvertOptions(include_columns=names or []),
            )
        else:
            batches = pyarrow.parquet.ParquetFile(file).iter_batches(_BLOCK, columns=names)
        for batch in batches:
            for start in range(0, batch.num_rows, _BLOCK):
                part = batch.slice(start, _BLOCK)
                yield {name: part.column(name).to_pylist() for name in part.schema.names}
    except (pyarrow.ArrowException, LookupError, OSError, ValueError, OverflowError) as error:
        raise LowRankError(
            f"{file}: cannot be read ({reason_of(error)}); correct the file"
        ) from error


def features(block: Columns, columns: Sequence[str], first: int, source: str) -> Tensor:
    """(rows, …) float32: the column itself where it is one of lists, else a feature a column."""
    found = [numbers(block[name], name, first, source) for name in columns]
    if len(found) == 1 and found[0].dim() > 1:
        return found[0].to(torch.float32)
    flat = [values.reshape(len(values), -1) for values in found]
    return torch.cat(flat, 1).to(torch.float32)


def numbers(values: Sequence[Any], column: str, first: int, source: str) -> Tensor:
    """(rows, …) float64. Raises LowRankError, with the row, for what is no finite number."""
    try:
        found = torch.tensor(values, dtype=torch.float64)
        if bool(torch.isfinite(found).all()):
            return found
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    shape = len(values[0]) if isinstance(values[0], list) else None
    # One text makes texts of all numbers of a CSV column: it is that one which is named.
    only_text = all(_is_number(_parsed(value)) for value in values)
    for number, value in enumerate(values if only_text else map(_parsed, values)):
        parts = value if isinstance(value, list) else [value]
        fine = all(_is_number(part) for part in parts)
        if not fine or (len(value) if isinstance(value, list) else None) != shape:
            shown = repr(value)
            raise LowRankError(
                f"{source}: column {column!r}, row {first + number} is "
                f"{shown if len(shown) <= 40 else shown[:37] + '…'}; give a finite number (or "
                "lists of one length) in every row, or leave the column out by data.columns"
            )
    raise LowRankError(f"{source}: column {column!r} is no array of numbers; leave it out")


def _parsed(value: Any) -> Any:
    """The number that a text is, or the value itself."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, bool | int | float) and math.isfinite(value)
    except OverflowError:  # a whole number that is too large for float64
        return False
