"""Every source checks what it reads: checksums, formats, and no pickles."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.data.options import DataOptions
from pipeline.data.rows import Rows
from pipeline.data.sources import SOURCES, RawData, Request, digits, fashion_mnist
from pipeline.data.sources.idx import parse_idx
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import get_task

IMAGES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([9, 0, 3, 1], dtype=np.uint8)


def read(
    name: Any, path: str | None = None, sha256: str | None = None, task: str = "classification"
) -> RawData:
    options = DataOptions(name=name, path=path, sha256=sha256)
    return SOURCES[name](Request(options, get_task(task), 0, Path("unused")))


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def tiny_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small IDX files, two of them not compressed, with checksums to match."""
    sums = {}
    for name in fashion_mnist.CONTENT_SHA256:
        content = idx(IMAGES if "images" in name else LABELS)
        sums[name] = hashlib.sha256(content).hexdigest()
        if name.startswith("t10k"):
            (tmp_path / name).write_bytes(content)
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(fashion_mnist, "CONTENT_SHA256", sums)
    return tmp_path


def test_idx_reader() -> None:
    assert torch.equal(parse_idx(idx(IMAGES), "tiny"), torch.from_numpy(IMAGES))
    assert parse_idx(idx(LABELS), "tiny").tolist() == [9, 0, 3, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(IMAGES)[:-1], r"tiny: 23 bytes of data, the header \(4, 2, 3\) promises 24"),
        (idx(IMAGES)[:9], "tiny: the IDX header is cut short"),
        (b"\x80\x04\x95\x00", r"tiny: not an IDX file of unsigned bytes \(starts with 80049500"),
        (b"", "tiny: not an IDX file"),
    ],
)
def test_idx_reader_refuses(content: bytes, message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        parse_idx(content, "tiny")


def test_fashion_mnist_from_a_folder(tiny_fashion: Path) -> None:
    raw = read("fashion_mnist", str(tiny_fashion))
    assert torch.equal(raw.inputs[:, 0], torch.from_numpy(IMAGES))
    assert raw.labels.tolist() == [9, 0, 3, 1]
    assert raw.test_inputs is not None
    assert raw.test_inputs.shape == (4, 1, 2, 3)
    assert raw.class_names[9] == "Ankle-boot"


def test_fashion_mnist_that_is_another_data_set(tiny_fashion: Path) -> None:
    changed = IMAGES.copy()
    changed[0, 0, 0] += 1
    name = "train-images-idx3-ubyte.gz"
    (tiny_fashion / name).write_bytes(gzip.compress(idx(changed)))
    with pytest.raises(LowRankError, match=r"the checksum is sha256 .*, expected .*get it again"):
        read("fashion_mnist", str(tiny_fashion))


def test_fashion_mnist_that_is_cut_short_or_missing(tiny_fashion: Path) -> None:
    path = tiny_fashion / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(LowRankError, match=r"train-labels-idx1-ubyte.gz: cannot be unpacked"):
        read("fashion_mnist", str(tiny_fashion))
    path.unlink()
    with pytest.raises(LowRankError, match=r"train-labels-idx1-ubyte.gz: missing; put the four"):
        read("fashion_mnist", str(tiny_fashion))
    with pytest.raises(LowRankError, match=r"no such folder; name the folder of the four"):
        read("fashion_mnist", str(tiny_fashion / "nowhere"))


def test_fashion_mnist_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, *arguments: Any, **options: Any) -> None:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr("pooch.retrieve", unreachable)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    with pytest.raises(
        LowRankError, match=r"cannot be downloaded .no route.*dataset-fashion-mnist"
    ):
        read("fashion_mnist")


def test_fashion_mnist_is_downloaded_with_checksums(
    tiny_fashion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def retrieve(url: str, known_hash: str, fname: str, path: Path, **options: Any) -> None:
        asked[url.rpartition("/")[2]] = known_hash

    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tiny_fashion / "absent")
    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setattr("pooch.os_cache", lambda name: tiny_fashion.parent / "cache")
    target = tiny_fashion.parent / "cache" / "fashion-mnist"
    target.parent.mkdir()
    tiny_fashion.rename(target)
    assert len(read("fashion_mnist", None).labels) == 4
    assert sorted(asked) == sorted(f"{name}.gz" for name in fashion_mnist.CONTENT_SHA256)
    assert all(value.startswith("sha256:") for value in asked.values())
    assert len(set(asked.values())) == 4


def test_damaged_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_SHA256", "ab" * 32)
    with pytest.raises(LowRankError, match=r"digits: the checksum is .*reinstall scikit-learn"):
        read("digits")


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_options_that_a_source_would_ignore(name: str) -> None:
    with pytest.raises(LowRankError, match=f"sha256=abc: the source {name} doesn't use it"):
        DataOptions(name=name, sha256="abc")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_own_arrays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    inputs, labels = torch.rand(6, 3, 2, dtype=torch.float64), torch.tensor([0, 1, 2] * 2)
    if suffix == ".npz":
        np.savez(path, inputs=inputs.numpy(), labels=labels.numpy().astype("int16"))
    else:
        save_file({"inputs": inputs, "labels": labels.int()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    raw = read("tensors", str(path), digest.upper())
    assert isinstance(raw.inputs, torch.Tensor)
    assert torch.equal(Rows(raw.inputs).all(), inputs.float())
    assert torch.equal(raw.labels, labels)
    assert (raw.classes, raw.sha256) == (3, {path.name: digest})
    with pytest.raises(LowRankError, match=r"the checksum is sha256 .*, expected 0000"):
        read("tensors", str(path), "0" * 64)


def write_pickled_npz(path: Path) -> None:
    np.savez(path, inputs=np.array([{"a": 1}], dtype=object), labels=np.array([0]))


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"inputs": [1], "labels": [0]}))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npz", write_pickled_npz, "not an .npz of plain numeric arrays .*allow_pickle=False"),
        ("b.npz", write_pickle, "not an .npz of plain numeric arrays"),
        ("c.safetensors", write_pickle, "not a safetensors file"),
        ("d.pt", write_pickle, r"\.pt is not read \(pickles never are\)"),
    ],
)
def test_pickles_are_refused(tmp_path: Path, name: str, write: Any, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(LowRankError, match=message):
        read("tensors", str(tmp_path / name))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": torch.zeros(3).int()}, r"has no array 'inputs' \(has labels\)"),
        ({"inputs": torch.rand(3, 2), "label": torch.zeros(3)}, "an array 'label' is not read"),
        ({"inputs": torch.rand(3), "labels": torch.zeros(3).int()}, r"inputs has shape \(3,\)"),
        (
            {"inputs": torch.zeros(3, 2).int(), "labels": torch.zeros(3).int()},
            "inputs is torch.int32; save it as uint8 .* or float32",
        ),
        ({"inputs": torch.rand(3, 2), "labels": torch.rand(3)}, "labels is torch.float32 of shape"),
        (
            {"inputs": torch.rand(3, 2), "labels": torch.zeros(3).int()}
            | {"test_inputs": torch.rand(3, 2)},
            "test_inputs without its counterpart",
        ),
    ],
)
def test_arrays_that_cannot_be_meant(
    tmp_path: Path, arrays: dict[str, torch.Tensor], message: str
) -> None:
    save_file(arrays, tmp_path / "mine.safetensors")
    with pytest.raises(LowRankError, match=message):
        read("tensors", str(tmp_path / "mine.safetensors"))


def test_no_path_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(LowRankError, match=r"data.path is null: the source tensors needs"):
        read("tensors", None)
    with pytest.raises(LowRankError, match=r"no such file; correct data.path"):
        read("tensors", str(tmp_path / "absent.npz"))
