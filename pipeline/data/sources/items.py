"""Single examples of any kind → the rows of a data set that may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.building import built_callable
from pipeline.data.labels import Numbering, number_classes, read_labels, several_of
from pipeline.data.options import DataOptions
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.rows import Pool
from pipeline.data.sources.images import Format, is_image
from pipeline.data.sources.raw import Request
from pipeline.data.splits import Values, named, unnamed
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import count_examples
from pipeline.models.processors import configuration_of, load_processor, processed

_BY_NAME = ("class", "classes")  # labels that may be texts: they are numbered at the end


class Reader:
    """Makes inputs of what examples hold: the user's transform or processor, else Pillow's images
    as bytes, arrays and numbers as they are."""

    def __init__(self, options: DataOptions) -> None:
        self._format = Format.of(options)
        self._options = options
        self._processor: Any = None
        self._own: Callable[[Any], Any] | None = None
        if options.processor is not None:
            self._processor = load_processor(options.processor, options.processor_sha256)
        if options.transform is not None:
            self._own = built_callable(options.transform, "data.transform")
        self.images = False

    def __call__(self, value: Any, name: str) -> Values:
        """One example's input, a tensor or {name: tensor}. name: of the example, for messages."""
        if self.transformed and is_image(value):
            value = self._format.coloured(value)
        if self._processor is not None:
            return processed(self._processor, value, name)
        if self._own is not None:
            return self._transformed(value, name)
        if is_image(value):
            self.images = True
            return self._format.tensor(value, name)
        return as_tensor(value, name)

    def _transformed(self, value: Any, name: str) -> Values:
        assert self._own is not None
        try:
            answer = self._own(value)
        except Exception as error:  # the user's code may raise anything
            reason = (str(error).splitlines() or [""])[0]
            raise LowRankError(
                f"data.transform: {type(error).__name__} for {name} ({reason}); correct the "
                "transform, or the example"
            ) from error
        if isinstance(answer, Mapping):
            return {str(key): as_tensor(one, name) for key, one in answer.items()}
        return as_tensor(answer, name)

    @property
    def transformed(self) -> bool:
        """Whether the user's own code made the inputs: no statistics normalise them."""
        return self._processor is not None or self._own is not None

    def preprocessing(self) -> Preprocessing:
        """What was done to the examples so far."""
        options, format = self._options, self._format
        return Preprocessing(
            processor=None if self._processor is None else configuration_of(self._processor),
            transform=options.transform,
            size=format.size if self.images else None,
            resize=format.resize if self.images and format.size else None,
            colour=format.colour if self.images else None,
            columns={k: tuple(v) for k, v in (options.inputs or {}).items()}
            or ({"": options.columns} if options.columns else {}),
        )


class Collector:
    """Examples with their labels, put into files in any order of arrival."""

    def __init__(self, request: Request, source: str, part: str = "") -> None:
        folder = request.scratch / (part or "examples")
        folder.mkdir()
        remedy = "give examples of one shape and type"
        if request.options.name in ("image_folder", "dataset", "hub"):
            remedy += ", set data.size for images"
        self._pool = Pool(folder, source, remedy)
        self._kind: str | None = request.task.labels
        self._source = source
        self._ignored = request.ignored
        self._labels: list[Any] = []

    def put(self, place: int, inputs: Values, label: Any) -> None:
        """Puts an example at a place that is taken already, or behind the last one.

        label: as the source has it; None where there is none.
        """
        row = dict(named("inputs", inputs))
        if self._kind == "any" and isinstance(label, str):
            self._kind = "class"
        if label is not None and self._kind is not None and self._kind not in _BY_NAME:
            row |= named("labels", _tensors(label, f"the label of example {place}"))
        if place < len(self._pool):
            self._pool.replace(place, row)
            self._labels[place] = label
        else:
            self._pool.append(row)
            self._labels.append(label)

    def finish(self, given: Sequence[str] | None) -> tuple[Values, Values | None, Numbering | None]:
        """(inputs, labels, the classes). given: their names, where they are known."""
        if not len(self._pool):
            raise LowRankError(f"{self._source}: holds no examples; give some")
        arrays = self._pool.tensors()
        inputs = unnamed("inputs", arrays)
        assert inputs is not None
        if self._kind in _BY_NAME and any(label is not None for label in self._labels):
            labels, numbering = self._numbered(given)
            return inputs, labels, numbering
        ignored = self._ignored
        labels_read, numbering_read = read_labels(
            unnamed("labels", arrays), self._kind, self._source, given=given, ignored=ignored
        )
        return inputs, labels_read, numbering_read

    def _numbered(self, given: Sequence[str] | None) -> tuple[Values | None, Numbering | None]:
        plain = [_plain(label) for label in self._labels]
        if self._kind == "class":
            return number_classes(plain, given, self._source)
        if _are_truths(plain):
            truths = torch.tensor(plain, dtype=torch.float32)
            return read_labels(truths, "classes", self._source, given=given)
        return several_of(plain, given, self._source)


class Reservoir:
    """A sample of a stream of unknown length, each example with the same probability (Vitter 1985,
    algorithm R); the same seed gives the same sample. Without a limit it is the whole stream."""

    def __init__(self, limit: int | None, seed: int) -> None:
        self._limit = limit
        self._generator = torch.Generator().manual_seed(seed)

    def place(self, number: int) -> int | None:
        """Where the example of this number, counted from 0, is put; None: nowhere."""
        if self._limit is None or number < self._limit:
            return number
        drawn = int(torch.randint(number + 1, (1,), generator=self._generator))
        return drawn if drawn < self._limit else None


def transform_all(
    values: Values, reader: Reader, request: Request, source: str, prefix: str = ""
) -> Values:
    """What the user's transform makes of each example's input; the inputs where there is none."""
    if not reader.transformed:
        return values
    folder = request.scratch / f"{prefix}transformed"
    folder.mkdir()
    pool = Pool(folder, source)
    for row in range(count_examples(values)):
        one = {k: v[row] for k, v in values.items()} if isinstance(values, dict) else values[row]
        pool.append(named("inputs", reader(one, f"{prefix}inputs[{row}] of {source}")))
    made = unnamed("inputs", pool.tensors())
    assert made is not None
    return made


def as_tensor(value: Any, name: str) -> Tensor:
    """An array, a number or nested lists of them as a tensor. Raises LowRankError, with the name,
    for what is neither."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if is_image(value):
        raise LowRankError(
            f"{name}: is an image where numbers are read; name its key in data.columns"
        )
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(type(value).__name__)
        if array.dtype == np.uint16 or array.dtype == np.uint32:
            array = array.astype(np.int64)
        return torch.from_numpy(np.array(array))
    except (TypeError, ValueError, OverflowError) as error:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}…"
        raise LowRankError(
            f"{name}: {shown} is no number, array or list of numbers; give numbers, or a "
            "data.transform that makes them"
        ) from error


def _tensors(value: Any, name: str) -> Values:
    if isinstance(value, Mapping):
        return {str(key): as_tensor(one, f"{name} ({key})") for key, one in value.items()}
    return as_tensor(value, name)


def _plain(label: Any) -> Any:
    """A label as Python's own: a number, a text, a list."""
    if isinstance(label, Tensor | np.ndarray | np.generic):
        return label.tolist()
    return list(label) if isinstance(label, tuple) else label


def _are_truths(rows: list[Any]) -> bool:
    """Whether these are 0 or 1 for each class, and no lists of classes."""
    lists = [row for row in rows if isinstance(row, list)]
    same = len(lists) == len(rows) and len({len(row) for row in lists}) == 1
    return same and all(one in (0, 1) for row in lists for one in row)
