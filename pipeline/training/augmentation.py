"""Random crops and flips of a whole batch of images in one gather."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def random_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to a sixteenth of its size; edge pixels are repeated.

    images (N, C, H, W) of any dtype on the CPU → same shape, channels-last in memory.
    """
    return _crop(images, torch.zeros(len(images), dtype=torch.bool), generator)


def random_crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """`random_crop`, and half of the images mirrored left to right."""
    return _crop(images, torch.rand(len(images), generator=generator) < 0.5, generator)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images mirrored left to right; nothing is moved."""
    _check_images(images)
    flip = torch.rand(len(images), generator=generator) < 0.5
    mirrored = torch.where(flip[:, None, None, None], images.flip(3), images)
    return mirrored.contiguous(memory_format=torch.channels_last)


def _crop(images: Tensor, flip: Tensor, generator: torch.Generator) -> Tensor:
    _check_images(images)
    count, _, height, width = images.shape
    rows = _shifted(height, count, generator)
    columns = _shifted(width, count, generator)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    example = torch.arange(count)[:, None, None]
    # Indices around the full slice: the result is (N, H, W, C), which is channels-last.
    gathered = images[example, :, rows[:, :, None], columns[:, None, :]]
    return gathered.permute(0, 3, 1, 2)


def _check_images(images: Tensor) -> None:
    if images.dim() != 4:
        raise LowRankError(
            f"augment: examples of shape {tuple(images.shape[1:])} are no images (C, H, W); set "
            "augment=none"
        )


def _shifted(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, size) source indices of images shifted at random, clamped to the edge."""
    reach = max(1, round(size / 16))
    shift = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    return (torch.arange(size) + shift).clamp_(0, size - 1)


def _unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _unchanged,
    "flip": random_flip,
    "crop": random_crop,
    "crop_flip": random_crop_flip,
}
