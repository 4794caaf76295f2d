"""One small data set for each source, whose examples carry their own number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

COUNT = 60


class Mine(Dataset[Any]):
    """(input, label); the first value of an input is its number, and its class number % 3."""

    def __init__(self, count: int = COUNT, first: int = 0, form: str = "tuple") -> None:
        self.count, self.first, self.form = count, first, form

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        number = self.first + index
        x, label = torch.tensor([[number, 1.0]]), number % 3
        if self.form == "dict":
            return {"x": x, "y": torch.ones(4) * number, "label": label}
        return x if self.form == "alone" else (x, label)


class Stream(IterableDataset[Any]):
    """The same examples, of unknown number."""

    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return iter(Mine(self.count)[i] for i in range(self.count))


class Module:
    """What a LightningDataModule has of methods."""

    def setup(self, stage: str) -> None:
        self.stage = stage

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Mine(), batch_size=7, shuffle=True)

    def test_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Mine(6, first=100), batch_size=2)


@dataclass(frozen=True)
class Case:
    """A row of the contract: `write` makes the data in a folder and gives the options."""

    name: str
    write: Callable[[Path], dict[str, Any]]
    number: Callable[[Any], Tensor]
    classes: int = 3


def first_value(inputs: Any) -> Tensor:
    """(N,) the number of each example: the first value of its input."""
    values = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    return values.flatten(1)[:, 0].round().long()


def write_tensors(folder: Path) -> dict[str, Any]:
    inputs = torch.arange(COUNT, dtype=torch.float32)[:, None].expand(COUNT, 2)
    save_file(
        {"inputs": inputs.contiguous(), "labels": torch.arange(COUNT) % 3}, folder / "t.safetensors"
    )
    return {"name": "tensors", "path": str(folder / "t.safetensors")}


def write_images(folder: Path) -> dict[str, Any]:
    for number in range(COUNT):
        place = folder / "images" / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 7), number).save(place / f"{number}.png")
    return {"name": "image_folder", "path": str(folder / "images"), "colour": "grey", "size": (4,)}


def rows() -> list[dict[str, Any]]:
    return [{"a": n, "b": n / 2, "kind": "abc"[n % 3], "label": n % 3} for n in range(COUNT)]


def write_jsonl(folder: Path) -> dict[str, Any]:
    (folder / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows()))
    return {"name": "table", "path": str(folder / "t.jsonl"), "columns": ("a", "b")}


def write_csv(folder: Path) -> dict[str, Any]:
    lines = [",".join(map(str, row.values())) for row in rows()]
    (folder / "t.csv").write_text("\n".join(["a,b,kind,label", *lines]))
    options = {"columns": ("a", "b"), "labels": ("kind",)}
    return {"name": "table", "path": str(folder / "t.csv"), **options}


def write_parquet(folder: Path) -> dict[str, Any]:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), folder / "t.parquet")
    inputs = {"x": ("a", "b"), "y": ("b",)}
    return {"name": "table", "path": str(folder / "t.parquet"), "inputs": inputs}


def write_hub(folder: Path) -> dict[str, Any]:
    import datasets

    made = datasets.Dataset.from_list(rows())
    made.save_to_disk(str(folder / "hub"))
    return {"name": "hub", "path": str(folder / "hub"), "inputs": {"x": ("a", "b")}}


def dataset(target: str, **arguments: Any) -> Callable[[Path], dict[str, Any]]:
    spec = {"_target_": f"tests.data.source_case.{target}", **arguments}
    return lambda folder: {"name": "dataset", "dataset": spec}


CASES = [
    Case("tensors", write_tensors, first_value),
    Case("image_folder", write_images, lambda x: (x.flatten(1)[:, 0] * 255).round().long()),
    Case("table jsonl", write_jsonl, first_value),
    Case("table csv", write_csv, first_value),
    Case("table parquet", write_parquet, first_value),
    Case("dataset", dataset("Mine"), first_value),
    Case("dataset dict", dataset("Mine", form="dict"), first_value),
    Case("stream", dataset("Stream"), first_value),
    Case("hub", write_hub, first_value),
]
