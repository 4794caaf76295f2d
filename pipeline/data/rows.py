"""Rows of tensors that may be larger than memory: chosen, read and written piece by piece."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError

_VALUES = 2**22  # of a piece: 16 MiB of float32
# As safetensors orders what it writes: the widest type first, then by name.
_TYPES = {torch.int64: "I64", torch.float32: "F32", torch.uint8: "U8", torch.bool: "BOOL"}


@dataclass(frozen=True)
class Rows:
    """Rows of a tensor, which may be a file mapped into memory: those that are `chosen`, in this
    order, or all of them; given in the type in which they are stored (`stored_type`)."""

    source: Tensor
    chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source) if self.chosen is None else len(self.chosen)

    def part(self, start: int, stop: int) -> Rows:
        """The rows from `start` to before `stop`."""
        if self.chosen is None:
            return Rows(self.source[start:stop])
        return Rows(self.source, self.chosen[start:stop])

    def all(self) -> Tensor:
        """All rows as one tensor."""
        return stored_type(self.source if self.chosen is None else self.source[self.chosen])

    @property
    def dtype(self) -> torch.dtype:
        return stored_type(self.source[:0]).dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.source.shape[1:])

    def pieces(self) -> Iterator[Tensor]:
        """The rows in their order, as tensors of at most 2²² values."""
        step = max(1, _VALUES // max(1, torch.Size(self.shape).numel()))
        for start in range(0, len(self), step):
            yield self.part(start, min(start + step, len(self))).all()


def save_rows(path: Path, tensors: Mapping[str, Rows]) -> None:
    """Writes a safetensors file, the bytes of safetensors' own save_file, a piece at a time.

    tensors: int64, float32, uint8 or bool, by name.
    """
    order = list(_TYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header, end = {}, 0
    for name in names:
        rows = tensors[name]
        start, end = end, end + len(rows) * torch.Size(rows.shape).numel() * rows.dtype.itemsize
        header[name] = {
            "dtype": _TYPES[rows.dtype],
            "shape": [len(rows), *rows.shape],
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            for piece in tensors[name].pieces():
                _write(file, piece)


class Pool:
    """Examples of unknown number, written to files as they come: {name: its rows}.

    Every example has the same names, shapes and types; one that hasn't is a LowRankError that
    names it. Floating values become float32, whole numbers int64; bytes and truth values stay.
    remedy: what to do about examples of several shapes.
    """

    def __init__(
        self, folder: Path, source: str, remedy: str = "give examples of one shape and type"
    ) -> None:
        self._folder, self._source, self._remedy = folder, source, remedy
        self._files: dict[str, BinaryIO] = {}
        self._kinds: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, example: Mapping[str, Tensor]) -> None:
        """Adds an example behind the others."""
        self.extend({name: value.unsqueeze(0) for name, value in example.items()})

    def extend(self, examples: Mapping[str, Tensor]) -> None:
        """Adds several examples, (n, …) each tensor."""
        self._check(examples)
        for name, value in examples.items():
            self._files[name].seek(0, 2)
            _write(self._files[name], stored_type(value))
        self._count += len(next(iter(examples.values())))

    def replace(self, index: int, example: Mapping[str, Tensor]) -> None:
        """Puts an example in the place of another."""
        rows = {name: value.unsqueeze(0) for name, value in example.items()}
        self._check(rows)
        for name, value in rows.items():
            file, row = self._files[name], stored_type(value)
            file.seek(index * row.nbytes)
            _write(file, row)

    def tensors(self) -> dict[str, Tensor]:
        """All examples, (N, …) each tensor: the files, mapped into memory."""
        found = {}
        for name, (shape, dtype) in self._kinds.items():
            self._files[name].flush()  # it stays open: what reads a stream may go on writing
            count = self._count * torch.Size(shape).numel()
            path = self._files[name].name
            flat = (
                torch.from_file(path, shared=False, size=count, dtype=dtype)
                if count
                else torch.empty(0, dtype=dtype)
            )
            found[name] = flat.view(self._count, *shape)
        return found

    def _check(self, examples: Mapping[str, Tensor]) -> None:
        kinds = {k: (tuple(v.shape[1:]), stored_type(v[:0]).dtype) for k, v in examples.items()}
        if not self._kinds:
            self._kinds = kinds
            for number, name in enumerate(kinds):
                self._files[name] = (self._folder / f"{number}.rows").open("w+b")
        if kinds != self._kinds:
            raise LowRankError(
                f"{self._source}: example {self._count} is {_told(kinds)}, the first one "
                f"{_told(self._kinds)}; {self._remedy}"
            )


def stored_type(value: Tensor) -> Tensor:
    """The values in the type in which they are stored: float32, int64, uint8 or bool."""
    if value.is_floating_point():
        return value.to(torch.float32)
    if value.is_complex():
        raise LowRankError(f"{value.dtype} values are not read; give their parts as two channels")
    return value if value.dtype in (torch.uint8, torch.bool) else value.to(torch.int64)


def _told(kinds: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(
        f"{name} {str(dtype).removeprefix('torch.')} {list(shape)}"
        for name, (shape, dtype) in kinds.items()
    )


def _write(file: BinaryIO, rows: Tensor) -> None:
    file.write(rows.contiguous().numpy().data)
