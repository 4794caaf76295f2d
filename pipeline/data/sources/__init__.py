"""Where examples come from: one file a source. A new source is a new file and a row here."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.data.sources.check import check_examples
from pipeline.data.sources.digits import read_digits
from pipeline.data.sources.fashion_mnist import read_fashion_mnist
from pipeline.data.sources.raw import RawData
from pipeline.data.sources.tensors import read_tensors

SOURCES: dict[str, Callable[[str | None, str | None], RawData]] = {
    "digits": read_digits,
    "fashion_mnist": read_fashion_mnist,
    "tensors": read_tensors,
}

__all__ = ["SOURCES", "RawData", "check_examples"]
