"""The user's own Dataset, stream, DataModule or factory of one, named by `_target_`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.data.building import built
from pipeline.data.options import DataOptions
from pipeline.data.sources.items import Collector, Reader, Reservoir, as_tensor
from pipeline.data.sources.raw import RawData, Request
from pipeline.data.splits import Values
from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import check_sha256, content_sha256

_LABELS = ("labels", "label", "targets", "target")


def read_dataset(request: Request) -> RawData:
    """Examples of a torch Dataset (with a length, or a stream), of a DataLoader or of a DataModule
    (`train_dataloader`, perhaps `test_dataloader`), perhaps its test split as well.

    An example is (input, label), or a dict of inputs and labels, or the input alone. A stream is
    read once, to its end; with `data.limit` a sample of it is kept. The files that the
    Dataset reads are pinned by `data.path`, which it is not given: name it in its arguments too.
    """
    options = request.options
    if options.dataset is None:
        raise LowRankError(
            "data.dataset is null: the source dataset needs data.dataset._target_, the import path "
            "of your Dataset"
        )
    sha256 = _checked(options)
    title = str(options.dataset["_target_"]).rpartition(".")[2]
    made = built(options.dataset, "data.dataset")
    train, test = _parts(made)
    if options.test_dataset is not None:
        test, _ = _parts(built({**options.dataset, **options.test_dataset}, "data.test_dataset"))
    return read_parts(request, train, test, title, sha256)


def read_parts(
    request: Request, train: Any, test: Any | None, title: str, sha256: Mapping[str, str]
) -> RawData:
    """The examples of a Dataset and those of its own test split, if it has one.

    title: of the source; sha256: of what it reads.
    """
    given = request.options.class_names or class_names(train)
    reader = Reader(request.options)
    whole = _collected(request, reader, train, title, "")
    inputs, labels, numbering = whole.finish(given)
    names = None if numbering is None else numbering.names
    test_inputs: Values | None = None
    test_labels: Values | None = None
    if test is not None:
        part = _collected(request, reader, test, f"the test split of {title}", "test")
        test_inputs, test_labels, _ = part.finish(names)
    return RawData(
        inputs=inputs,
        labels=labels,
        class_names=None if names is None else list(names),
        sha256=dict(sha256),
        source=title,
        test_inputs=test_inputs,
        test_labels=test_labels,
        complete=numbering is None or not numbering.given,
        transformed=reader.transformed,
        preprocessing=reader.preprocessing(),
    )


def class_names(dataset: Any) -> list[str] | None:
    """The names of the classes that a Dataset says itself (`classes`, as torchvision's do)."""
    found = getattr(dataset, "classes", None)
    texts = isinstance(found, list | tuple) and all(isinstance(name, str) for name in found)
    return list(found) if found and texts else None


def _checked(options: DataOptions) -> dict[str, str]:
    if options.path is None:
        return {}
    actual = content_sha256(Path(options.path))
    if options.sha256 is not None:
        check_sha256(options.path, actual, options.sha256, "correct data.sha256")
    return {Path(options.path).name: actual}


def _parts(made: Any) -> tuple[Any, Any | None]:
    """(examples, the test split's or None) of what the factory gave."""
    if not hasattr(made, "train_dataloader"):
        return _alone(made), None
    for step, arguments in (("prepare_data", ()), ("setup", ("fit",)), ("setup", ("test",))):
        if hasattr(made, step):
            getattr(made, step)(*arguments)
    has_test = getattr(made, "test_dataloader", None)
    try:
        test = has_test() if callable(has_test) else None
    except NotImplementedError:
        test = None
    return _alone(made.train_dataloader()), None if test is None else _alone(test)


def _alone(made: Any) -> Any:
    """The Dataset of a DataLoader, whose batches and shuffling are not used; or what was given."""
    found = getattr(made, "dataset", made) if hasattr(made, "batch_size") else made
    if not hasattr(found, "__getitem__") and not hasattr(found, "__iter__"):
        raise LowRankError(
            f"data.dataset gave a {type(found).__name__}: give a Dataset (__getitem__ and __len__, "
            "or __iter__), a DataLoader or a DataModule"
        )
    return found


def _collected(request: Request, reader: Reader, dataset: Any, title: str, part: str) -> Collector:
    collector = Collector(request, title, part)
    limit = None if part else request.options.limit  # a test split of its own is used whole
    for place, number, item in _sampled(dataset, limit, request.seed, title):
        value, label = split_item(item, request.options, f"example {number} of {title}")
        inputs = _inputs(reader, value, f"example {number} of {title}", request.options)
        collector.put(place, inputs, label)
    return collector


def _sampled(
    dataset: Any, limit: int | None, seed: int, title: str
) -> Iterator[tuple[int, int, Any]]:
    """(place, number, example) of those that are taken."""
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        chosen = range(len(dataset))
        if limit is not None and limit < len(dataset):
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randperm(len(dataset), generator=generator)[:limit]
            for place, number in enumerate(drawn.sort().values.tolist()):
                yield place, number, dataset[number]
            return
        for number in chosen:
            yield number, number, dataset[number]
        return
    if not hasattr(dataset, "__iter__"):
        raise LowRankError(f"{title}: has neither a length nor __iter__; give it one of them")
    reservoir = Reservoir(limit, seed)
    for number, item in enumerate(dataset):
        at = reservoir.place(number)
        if at is not None:
            yield at, number, item


def split_item(item: Any, options: DataOptions, name: str) -> tuple[Any, Any]:
    """(the input or {key: input}, the label or None) of an example as its source holds it."""
    if isinstance(item, Mapping):
        return _from_keys(item, options, name)
    if options.columns or options.inputs or options.labels:
        raise LowRankError(
            f"{name}: is a {type(item).__name__}, which has no keys; set data.columns, data.inputs "
            "and data.labels to null, or give examples as dicts"
        )
    if isinstance(item, tuple | list):
        if len(item) == 1:
            return item[0], None
        if len(item) != 2:
            raise LowRankError(
                f"{name}: is {len(item)} values, and (input, label) is two; give a dict of several "
                "inputs, by the names of the forward's keywords"
            )
        return item[0], item[1]
    return item, None


def _from_keys(item: Mapping[Any, Any], options: DataOptions, name: str) -> tuple[Any, Any]:
    labels = options.labels or tuple(key for key in _LABELS if key in item)[:1]
    columns = options.columns or tuple(key for key in item if key not in labels)
    if options.inputs is not None:
        columns = tuple(key for keys in options.inputs.values() for key in keys)
    for key in (*columns, *labels):
        if key not in item:
            raise LowRankError(
                f"{name}: has no key {key!r} among {', '.join(map(str, item))}; correct "
                "data.columns, data.inputs or data.labels"
            )
    label = None
    if labels:
        label = item[labels[0]] if len(labels) == 1 else {key: item[key] for key in labels}
    if not columns:
        raise LowRankError(f"{name}: holds labels alone; give inputs")
    if len(columns) == 1 and options.inputs is None:
        return item[columns[0]], label
    return {key: item[key] for key in columns}, label


def _inputs(reader: Reader, value: Any, name: str, options: DataOptions) -> Values:
    """A single input, or several by the names of the forward's keywords."""
    if not isinstance(value, Mapping):
        return reader(value, name)
    groups = options.inputs or {str(key): (str(key),) for key in value}
    found: dict[str, torch.Tensor] = {}
    for keyword, keys in groups.items():
        parts = [reader(value[key], f"{name} ({key})") for key in keys]
        if len(parts) == 1 and isinstance(parts[0], torch.Tensor):
            found[keyword] = parts[0]
        else:
            rows = [as_tensor(part, f"{name} ({keyword})").flatten() for part in parts]
            found[keyword] = torch.cat(rows)
    return found
