"""Data larger than memory: read, checked, split, written and read again piece by piece."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.data.files import load_split
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.data.preprocessing import channel_statistics
from pipeline.data.rows import Pool, Rows, save_rows
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import Classification


def test_the_file_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "labels": torch.arange(7),
        "inputs.b": torch.rand(7, 2, 3),
        "inputs.a": torch.randint(0, 256, (7, 5), dtype=torch.uint8),
        "inputs.ø": torch.rand(7) > 0.5,
        "none": torch.zeros(7, 0),
    }
    chosen = torch.tensor([6, 0, 3])
    save_rows(tmp_path / "ours", {k: Rows(v, chosen) for k, v in tensors.items()})
    save_file({k: v[chosen] for k, v in tensors.items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_pieces_are_all_rows_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.rows._VALUES", 10)
    values = torch.rand(11, 3, dtype=torch.float64)
    rows = Rows(values, torch.randperm(11))
    pieces = list(rows.pieces())
    assert [len(piece) for piece in pieces] == [3, 3, 3, 2]
    assert torch.equal(torch.cat(pieces), rows.all())
    assert torch.equal(rows.part(2, 5).all(), rows.all()[2:5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_statistics_of_pieces_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    values = (torch.rand(50, 3, 4) * 200 + torch.tensor([0.0, 50, 20])[:, None]).to(dtype)
    whole = channel_statistics(Rows(values))
    monkeypatch.setattr("pipeline.data.rows._VALUES", 100)
    parts = channel_statistics(Rows(values))
    assert parts.mean == pytest.approx(whole.mean, rel=1e-12)
    assert parts.std == pytest.approx(whole.std, rel=1e-12)
    unit = 255 if dtype == torch.uint8 else 1
    assert whole.std[1] == pytest.approx(float(values[:, 1].double().std(correction=0)) / unit)


def test_a_pool_holds_what_was_put_into_it(tmp_path: Path) -> None:
    pool = Pool(tmp_path, "mine")
    for number in range(4):
        pool.append({"inputs": torch.full((2,), number, dtype=torch.float64)})
    pool.extend({"inputs": torch.ones(2, 2)})
    pool.replace(1, {"inputs": torch.tensor([7.0, 8.0])})
    assert pool.tensors()["inputs"].tolist() == [[0, 0], [7, 8], [2, 2], [3, 3], [1, 1], [1, 1]]
    with pytest.raises(LowRankError, match=r"mine: example 6 is inputs float32 \[3\], the first"):
        pool.append({"inputs": torch.ones(3)})


@contextmanager
def peak_of_own_memory(found: list[float]) -> Iterator[None]:
    """MiB that the process took beyond what it had, without files that are mapped into memory."""

    def held() -> float:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    done, before = threading.Event(), held()

    def watch() -> None:
        while not done.wait(0.002):
            found.append(held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="RssAnon is Linux's")
def test_a_file_of_200_mb_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    count, size = 2000, 184 * 141 * 4  # bytes of an example: 208 MB together
    path = tmp_path / "mine.safetensors"
    inputs = torch.arange(count, dtype=torch.float32)[:, None].expand(count, size // 4)
    labels = torch.arange(count) % 2
    save_rows(path, {"inputs": Rows(inputs), "labels": Rows(labels)})
    sizes = {"calibration": 20, "validation": 20, "test": 20}
    found: list[float] = []
    with peak_of_own_memory(found):
        options = DataOptions(name="tensors", path=str(path), normalise="none", **sizes)
        prepare_data(tmp_path / "data", options, Classification(), seed=0)
        train = load_split(tmp_path / "data", "train")
        batch, _ = train.batch(torch.arange(0, len(train), 97))
    assert (tmp_path / "data/train.safetensors").stat().st_size > 200e6
    assert len(batch.unique()) == len(batch), "what is read are the examples themselves"
    assert max(found) < 100, f"{max(found):.0f} MiB"
