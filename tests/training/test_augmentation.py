"""Crops shift whole images by whole pixels; flips mirror them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.lowrank import LowRankError
from pipeline.training.augmentation import random_crop, random_crop_flip, random_flip

IMAGES = torch.arange(400 * 2 * 32 * 16).view(400, 2, 32, 16).float()


def shifts(image: torch.Tensor) -> list[tuple[int, int, torch.Tensor]]:
    """All images that a shift by at most 2 rows and 1 column makes, edges repeated."""
    padded = functional.pad(image[None], (1, 1, 2, 2), mode="replicate")[0]
    return [
        (row, column, padded[:, row : row + 32, column : column + 16])
        for row in range(5)
        for column in range(3)
    ]


def test_a_crop_is_one_of_the_shifts_and_all_of_them_occur() -> None:
    cropped = random_crop(IMAGES, torch.Generator().manual_seed(0))
    seen = set()
    for before, after in zip(IMAGES, cropped, strict=True):
        found = [(r, c) for r, c, shifted in shifts(before) if torch.equal(shifted, after)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 15


def test_half_of_the_images_are_mirrored() -> None:
    changed = random_crop_flip(IMAGES, torch.Generator().manual_seed(0))
    mirrored = 0
    for before, after in zip(IMAGES, changed, strict=True):
        mirrored += any(torch.equal(shifted, after.flip(-1)) for _, _, shifted in shifts(before))
    assert 150 < mirrored < 250


def test_a_flip_alone_moves_nothing() -> None:
    changed = random_flip(IMAGES, torch.Generator().manual_seed(0))
    kept = [torch.equal(a, b) for a, b in zip(IMAGES, changed, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(IMAGES, changed, strict=True)]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True))
    assert 150 < sum(mirrored) < 250


def test_the_generator_decides_and_the_type_stays() -> None:
    images = (IMAGES % 256).to(torch.uint8)
    first, again, other = (
        random_crop_flip(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_vectors_are_no_images() -> None:
    with pytest.raises(LowRankError, match=r"shape \(7,\) are no images .* augment=none"):
        random_crop(torch.zeros(3, 7), torch.Generator())
