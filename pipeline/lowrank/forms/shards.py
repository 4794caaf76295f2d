"""The weights of a network in a folder: one file, or of a large network several with an index,
named as the hub names them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.lowrank.forms.weights import tied_once
from pipeline.lowrank.typed.content import file_sha256

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 5 * 10**9  # bytes of the largest file; a tensor that is larger has one of its own
_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def save_shards(model: nn.Module, folder: Path) -> list[str]:
    """Writes parameters and buffers, tied ones once, as `save_weights` does: to model.safetensors,
    or where they take more than 5 GB to model-00001-of-0000N.safetensors and so on, with
    model.safetensors.index.json. Those of an earlier network in the folder are removed.

    Returns the names of the files.
    """
    parts = list(_parts(tied_once(model.state_dict()))) or [{}]
    last = len(parts)
    names = [f"model-{n:05d}-of-{last:05d}.safetensors" for n in range(1, last + 1)]
    written = dict(zip(names if last > 1 else [WEIGHTS], parts, strict=True))
    for name, part in written.items():
        save_file(part, folder / name, {"format": "pt"} if last > 1 else None)
    names = list(written)
    if last > 1:
        places = {key: name for name, part in written.items() for key in part}
        size = sum(tensor.nbytes for part in parts for tensor in part.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        names.append(INDEX)
    for old in [*weight_files(folder), folder / WEIGHTS, folder / INDEX]:
        if old.name not in names:
            old.unlink(missing_ok=True)
    return names


def weight_names(names: Iterable[str]) -> list[str]:
    """Those of the names that are files of weights, in the order of the shards; model.safetensors
    where none is a shard."""
    return sorted(name for name in names if _NAME.fullmatch(name)) or [WEIGHTS]


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights in a folder, which need not be there."""
    return [folder / name for name in weight_names(path.name for path in folder.glob("model-*"))]


def weights_sha256(folder: Path) -> str:
    """A checksum of the weights in a folder, in hexadecimal; that of the file where it is one."""
    sums = [file_sha256(path) for path in weight_files(folder)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors in their order, no more than fit into a file at a time."""
    part: dict[str, Tensor] = {}
    size = 0
    for key, tensor in tensors.items():
        if part and size + tensor.nbytes > SHARD:
            yield part
            part, size = {}, 0
        part[key] = tensor
        size += tensor.nbytes
    if part:
        yield part
