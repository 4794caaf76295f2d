"""Where examples come from: one file a source. A new source is a new file and a row here."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.data.sources.check import check_examples
from pipeline.data.sources.dataset import read_dataset
from pipeline.data.sources.digits import read_digits
from pipeline.data.sources.fashion_mnist import read_fashion_mnist
from pipeline.data.sources.hub import read_hub
from pipeline.data.sources.image_folder import read_image_folder
from pipeline.data.sources.raw import RawData, Request
from pipeline.data.sources.table import read_table
from pipeline.data.sources.tensors import read_tensors

SOURCES: dict[str, Callable[[Request], RawData]] = {
    "digits": read_digits,
    "fashion_mnist": read_fashion_mnist,
    "tensors": read_tensors,
    "image_folder": read_image_folder,
    "table": read_table,
    "dataset": read_dataset,
    "hub": read_hub,
}

__all__ = ["SOURCES", "RawData", "Request", "check_examples"]
