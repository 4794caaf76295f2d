"""scikit-learn's bundled handwritten digits: 1,797 images of 8×8, ten classes, no network."""

from __future__ import annotations

import hashlib

import torch

from pipeline.data.sources.raw import RawData, Request
from pipeline.machine.checksums import check_sha256

# Of the pixels (0…16, as uint8) and then the labels (uint8), in C order.
_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
_LEVELS = 16


def read_digits(request: Request) -> RawData:
    """inputs (1797, 1, 8, 8) uint8, the 17 grey levels spread over 0…255."""
    from sklearn.datasets import load_digits  # a second of import that other sources save

    bunch = load_digits()
    pixels, labels = bunch.images.astype("uint8"), bunch.target.astype("uint8")
    actual = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    check_sha256("digits", actual, _SHA256, "reinstall scikit-learn: its bundled data is damaged")
    images = torch.from_numpy(pixels).unsqueeze(1).to(torch.int32) * 255 // _LEVELS
    return RawData(
        inputs=images.to(torch.uint8),
        labels=torch.from_numpy(labels).long(),
        class_names=[str(digit) for digit in range(10)],
        sha256={"load_digits": actual},
        source="scikit-learn load_digits",
    )
