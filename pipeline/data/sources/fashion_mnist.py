"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 + 10,000 images of 28×28, ten classes."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from torch import Tensor

from pipeline.data.sources.idx import parse_idx
from pipeline.data.sources.raw import RawData, Request
from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import check_sha256

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CLASSES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot"),
]
# File → sha256 of the uncompressed content. The compressed bytes differ between the publisher
# and Debian (gzip headers), what is inside is the same.
CONTENT_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# File → sha256 of the .gz that the publisher serves.
_DOWNLOAD_SHA256 = {
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def read_fashion_mnist(request: Request) -> RawData:
    """inputs (60000, 1, 28, 28) uint8, and the published test split of 10,000.

    The four IDX files (.gz or plain) come from the folder data.path; without one from Debian's
    package dataset-fashion-mnist, or else they are downloaded once to the user's cache.
    """
    folder = _folder(request.options.path)
    parts: dict[str, Tensor] = {}
    for name, expected in CONTENT_SHA256.items():
        content = _content(folder, name)
        check_sha256(
            f"{folder / name}",
            hashlib.sha256(content).hexdigest(),
            expected,
            "the file is corrupted or another data set: remove it and get it again",
        )
        parts[name] = parse_idx(content, name)
    return RawData(
        inputs=parts["train-images-idx3-ubyte"].unsqueeze(1),
        labels=parts["train-labels-idx1-ubyte"].long(),
        class_names=_CLASSES,
        sha256=dict(CONTENT_SHA256),
        source="Fashion-MNIST",
        test_inputs=parts["t10k-images-idx3-ubyte"].unsqueeze(1),
        test_labels=parts["t10k-labels-idx1-ubyte"].long(),
    )


def _folder(path: str | None) -> Path:
    if path is not None:
        if not Path(path).is_dir():
            raise LowRankError(
                f"data.path={path}: no such folder; name the folder of the four IDX files, or "
                "leave it null to download them"
            )
        return Path(path)
    return DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else _download()


def _content(folder: Path, name: str) -> bytes:
    """Uncompressed bytes of a file that lies there as .gz or plain."""
    packed, plain = folder / f"{name}.gz", folder / name
    if packed.is_file():
        try:
            return gzip.decompress(packed.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise LowRankError(
                f"{packed}: cannot be unpacked ({error}); remove it and get it again"
            ) from error
    if plain.is_file():
        return plain.read_bytes()
    raise LowRankError(
        f"{packed}: missing; put the four Fashion-MNIST files there, install Debian's package "
        "dataset-fashion-mnist, or set data.path=null to download them"
    )


def _download() -> Path:
    """The user's cache folder with the four files, fetched where missing or damaged."""
    import pooch  # only this branch needs it
    import requests

    folder = Path(pooch.os_cache("lowrank-pipeline")) / "fashion-mnist"
    for name, expected in _DOWNLOAD_SHA256.items():
        try:
            pooch.retrieve(
                f"{_HOST}{name}.gz", f"sha256:{expected}", f"{name}.gz", folder, progressbar=False
            )
        except (OSError, ValueError, requests.exceptions.RequestException) as error:
            reason = str(error).splitlines()[0][:200]
            raise LowRankError(
                f"Fashion-MNIST: {name}.gz cannot be downloaded ({reason}); install Debian's "
                "package dataset-fashion-mnist, or set data.path to a folder with the four files"
            ) from error
    return folder
