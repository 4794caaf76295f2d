"""The user's own data: one .safetensors or .npz file of arrays. Pickles are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.labels import Numbering, read_labels
from pipeline.data.sources.items import Reader, transform_all
from pipeline.data.sources.raw import RawData, Request
from pipeline.data.splits import Values, unnamed
from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.lowrank.tasks import Task
from pipeline.machine.checksums import check_sha256, file_sha256

_KNOWN = re.compile(r"(test_)?(inputs|labels)(\..+)?")
_NAMES = "name the arrays inputs, labels and optionally test_inputs, test_labels"


def read_tensors(request: Request) -> RawData:
    """`inputs` (N, …) uint8 or floating, or several by name, `inputs.NAME`, which may be integers
    too; `labels` (N, …), or `labels.NAME`, or none; perhaps a test split of the same, whose names
    begin with `test_`. The number of classes is the greatest label + 1, if nothing names them.

    Raises LowRankError for a missing, damaged or pickled file, a wrong checksum, arrays of other
    names and wrong dtypes or dimensions.
    """
    options, task = request.options, request.task
    path = options.path
    if path is None:
        raise LowRankError(
            "data.path is null: the source tensors needs the path of your .safetensors or .npz "
            "file; set data.path"
        )
    file = Path(path)
    if not file.is_file():
        raise LowRankError(f"data.path={path}: no such file; correct data.path")
    actual = file_sha256(file)
    if options.sha256 is not None:
        remedy = "get the file again, or correct data.sha256"
        check_sha256(path, actual, options.sha256, remedy)
    arrays = _read(file)
    _check_names(path, arrays)
    parts = [
        (_inputs(path, prefix, arrays, task), unnamed(f"{prefix}labels", arrays))
        for prefix in ("", "test_")
    ]
    (inputs, labels), (test_inputs, test_labels) = parts
    reader = Reader(options)
    if inputs is None:
        raise LowRankError(f"{path}: has no array 'inputs' (has {_list(arrays)}); {_NAMES}")
    if (test_inputs is None, test_labels is None) not in ((True, True), (False, labels is None)):
        given = "test_inputs" if test_labels is None else "test_labels"
        raise LowRankError(f"{path}: {given} without its counterpart; give both or neither")
    read, numbering = _labels(path, "labels", labels, request)
    test, _ = _labels(path, "test_labels", test_labels, request, numbering)
    return RawData(
        inputs=transform_all(inputs, reader, request, file.name),
        labels=read,
        class_names=None if numbering is None else list(numbering.names),
        sha256={file.name: actual},
        source=file.name,
        test_inputs=None
        if test_inputs is None
        else transform_all(test_inputs, reader, request, file.name, "test_"),
        test_labels=test,
        complete=numbering is None or not numbering.given,
        transformed=reader.transformed,
        preprocessing=reader.preprocessing(),
    )


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return dict(load_file(file))
        except SafetensorError as error:
            raise LowRankError(
                f"{file}: not a safetensors file ({error}); save it with safetensors' save_file"
            ) from error
    if file.suffix == ".npz":
        return _read_npz(file)
    raise LowRankError(
        f"{file}: {file.suffix or 'no suffix'} is not read (pickles never are); save inputs and "
        "labels as .safetensors or .npz"
    )


def _read_npz(file: Path) -> dict[str, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {
                key: torch.from_numpy(np.ascontiguousarray(archive[key])) for key in archive.files
            }
    except Exception as error:  # pickled objects, and whatever damaged archives and headers mean
        raise LowRankError(
            f"{file}: not an .npz of plain numeric arrays ({reason_of(error)}); save it "
            "with numpy.savez(file, inputs=…, labels=…)"
        ) from error


def _check_names(path: str, arrays: Mapping[str, Tensor]) -> None:
    for key in arrays:
        if not _KNOWN.fullmatch(key):
            raise LowRankError(f"{path}: an array {key!r} is not read; {_NAMES}")


def _inputs(path: str, prefix: str, arrays: Mapping[str, Tensor], task: Task) -> Values | None:
    found = unnamed(f"{prefix}inputs", arrays)
    if isinstance(found, Tensor) and task.inputs == "values":
        _check_values(path, f"{prefix}inputs", found)
    return found


def _check_values(path: str, key: str, inputs: Tensor) -> None:
    if inputs.dim() < 2:
        raise LowRankError(
            f"{path}: {key} has shape {tuple(inputs.shape)}; give it as (examples, channels, …), "
            "grey images as (examples, 1, height, width)"
        )
    if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
        raise LowRankError(
            f"{path}: {key} is {inputs.dtype}; save it as uint8 (read as 0…1) or float32"
        )


def _labels(
    path: str,
    name: str,
    labels: Values | None,
    request: Request,
    numbering: Numbering | None = None,
) -> tuple[Values | None, Numbering | None]:
    """The labels of a part; those of the test split are numbered as the others are."""
    given = request.options.class_names if numbering is None else numbering.names
    return read_labels(
        labels,
        request.task.labels,
        path,
        given=given,
        ignored=request.ignored,
        name=name,
    )


def _list(arrays: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(arrays)) or "none"
