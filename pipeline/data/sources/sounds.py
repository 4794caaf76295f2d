"""Sounds: files → tensors, by the library soundfile."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError, reason_of

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


def read_sound(file: Path | io.BytesIO) -> Tensor:
    """(channels, samples) float32 in −1…1, at the file's own rate. Raises LowRankError for a
    damaged file, and where soundfile is missing."""
    name = file if isinstance(file, Path) else "a sound of the data set"
    try:
        import soundfile
    except ImportError as error:
        raise LowRankError(f"{name}: sounds need pip install soundfile") from error
    try:
        samples, _ = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise LowRankError(
            f"{name}: cannot be read as a sound ({reason_of(error)}); remove it or save it again"
        ) from error
    return torch.from_numpy(samples).T.contiguous()
