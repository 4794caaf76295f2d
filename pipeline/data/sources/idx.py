"""The IDX format of the MNIST family: a big-endian header, then unsigned bytes."""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError

_UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, label: str) -> Tensor:
    """uint8 tensor of the dimensions that the header names.

    Header: two zero bytes, the type (0x08 = unsigned byte), the number of dimensions, then
    each size as a big-endian 32-bit integer. Raises LowRankError naming `label`.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise LowRankError(
            f"{label}: not an IDX file of unsigned bytes (starts with {content[:4].hex() or '?'}); "
            "get the original file"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise LowRankError(f"{label}: the IDX header is cut short; get the file again")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise LowRankError(
            f"{label}: {len(content) - start} bytes of data, the header {shape} promises "
            f"{math.prod(shape)}; get the file again"
        )
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).view(shape)
