"""The user's own data: one .safetensors or .npz file of arrays. Pickles are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.sources.raw import RawData
from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import check_sha256, file_sha256

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_OPTIONAL = ("test_inputs", "test_labels")


def read_tensors(path: str | None, sha256: str | None) -> RawData:
    """`inputs` (N, C, …) uint8 or floating, `labels` (N,) integers, optionally a test split of
    the same (`test_inputs`, `test_labels`). The number of classes is the greatest label + 1.

    Raises LowRankError for a missing, damaged or pickled file, a wrong checksum, missing
    arrays and wrong dtypes or dimensions.
    """
    if path is None:
        raise LowRankError(
            "data.path is null: the source tensors needs the path of your .safetensors or .npz "
            "file; set data.path"
        )
    file = Path(path)
    if not file.is_file():
        raise LowRankError(f"data.path={path}: no such file; correct data.path")
    actual = file_sha256(file)
    if sha256 is not None:
        check_sha256(path, actual, sha256, "get the file again, or correct data.sha256")
    arrays = _read(file)
    inputs, labels = _inputs(path, "inputs", arrays), _labels(path, "labels", arrays)
    given = [key for key in _OPTIONAL if key in arrays]
    if len(given) == 1:
        raise LowRankError(f"{path}: {given[0]} without its counterpart; give both or neither")
    classes = int(labels.max()) + 1 if len(labels) else 0
    return RawData(
        inputs=inputs,
        labels=labels,
        class_names=[str(label) for label in range(classes)],
        sha256={file.name: actual},
        source=file.name,
        test_inputs=_inputs(path, "test_inputs", arrays) if given else None,
        test_labels=_labels(path, "test_labels", arrays) if given else None,
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
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        # ValueError: numpy found a pickled object; TypeError: a dtype that torch doesn't have;
        # AttributeError: a single array (.npy) under the name .npz.
        raise LowRankError(
            f"{file}: not an .npz of plain numeric arrays ({str(error).splitlines()[0]}); save it "
            "with numpy.savez(file, inputs=…, labels=…)"
        ) from error


def _inputs(path: str, key: str, arrays: dict[str, Tensor]) -> Tensor:
    inputs = _array(path, key, arrays)
    if inputs.dim() < 2:
        raise LowRankError(
            f"{path}: {key} has shape {tuple(inputs.shape)}; give it as (examples, channels, …), "
            "grey images as (examples, 1, height, width)"
        )
    if inputs.dtype == torch.uint8:
        return inputs
    if not inputs.is_floating_point():
        raise LowRankError(
            f"{path}: {key} is {inputs.dtype}; save it as uint8 (read as 0…1) or float32"
        )
    return inputs.float()


def _labels(path: str, key: str, arrays: dict[str, Tensor]) -> Tensor:
    labels = _array(path, key, arrays)
    if labels.dim() != 1 or labels.dtype not in _INTEGERS:
        raise LowRankError(
            f"{path}: {key} is {labels.dtype} of shape {tuple(labels.shape)}; give one integer "
            "class number an example"
        )
    return labels.long()


def _array(path: str, key: str, arrays: dict[str, Tensor]) -> Tensor:
    if key not in arrays:
        raise LowRankError(
            f"{path}: has no array {key!r} (has {', '.join(sorted(arrays)) or 'none'}); name the "
            "arrays inputs, labels and optionally test_inputs, test_labels"
        )
    return arrays[key]
