"""Networks on disk: round trips to the bit, and what bad checkpoints get."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.lowrank import Energy, LowRankError, compress_
from pipeline.lowrank.forms import shards
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.files import load, read_network, save
from pipeline.lowrank.forms.shards import WEIGHTS, weight_files, weights_sha256
from pipeline.lowrank.forms.weights import load_weights


class Tied(nn.Module):
    """Token embedding and output head share one weight."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, width)
        self.middle = nn.Linear(width, width)
        self.head = nn.Linear(width, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.middle(self.embedding(tokens)))
        return output


SPEC: dict[str, Any] = {"_target_": f"{__name__}.Tied", "width": 12}
TOKENS = torch.arange(6)[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    done = compress_(build_model(SPEC), Energy(0.5), TOKENS)
    assert list(done.layers) == ["middle"]
    save(done.network, tmp_path / "net", SPEC)
    return tmp_path / "net"


def test_a_compressed_tied_network_comes_back_to_the_bit(folder: Path) -> None:
    one, two = load(folder, allow=["tests"]), load(folder, allow=["tests"])
    assert one.head.weight is one.embedding.weight
    assert one(TOKENS).abs().sum() > 0
    assert torch.equal(one(TOKENS), two(TOKENS))
    assert not one.training
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "network.json"]
    assert read_network(folder).builder == SPEC


def test_saving_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    file = read_network(folder)
    save(load(folder, allow=["tests"]), tmp_path / "again", file.builder)
    for name in ("model.safetensors", "network.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_load_from_safetensors_and_from_a_state_dict(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(model.state_dict(), path)
    else:
        save_file(model.state_dict(), path)
    assert not torch.equal(model.weight, other.weight)
    load_weights(other, path)
    assert torch.equal(model.weight, other.weight)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a pickle ran",))


def bad_checkpoints(tmp_path: Path) -> list[tuple[Path, str]]:
    good = {"weight": torch.ones(3, 4), "bias": torch.ones(3)}
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({"weight": good["weight"]}, "missing bias"),
        ({**good, "extra": torch.ones(1)}, "unexpected extra"),
        ({**good, "weight": torch.ones(4, 4)}, r"weight has shape \(4, 4\), .* expects\s+\(3, 4\)"),
        ({**good, "bias": torch.tensor([1.0, float("inf"), 0.0])}, "bias holds NaN or Inf"),
    ]
    found = []
    for index, (state, message) in enumerate(cases):
        path = tmp_path / f"{index}.safetensors"
        save_file(state, path)
        found.append((path, message))
    for name, value in [("evil.pt", Evil()), ("module.pt", nn.Linear(4, 3))]:
        torch.save(value, tmp_path / name)
        found.append((tmp_path / name, "weights_only=True"))
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    found.append((tmp_path / "list.pt", "holds list, not a flat state dict"))
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps(good))
    found.append((tmp_path / "pickle.safetensors", "not a safetensors file"))
    (tmp_path / "cut.pt").write_bytes(b"")
    found.append((tmp_path / "cut.pt", "weights_only=True"))
    found.append((tmp_path / "none.safetensors", "no such file"))
    return found


def test_bad_checkpoints_name_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Linear(4, 3)
    before = model.weight.clone()
    for path, message in bad_checkpoints(tmp_path):
        with pytest.raises(LowRankError, match=message) as info:
            load_weights(model, path)
        assert path.name in str(info.value)
        assert torch.equal(model.weight, before)
    assert "a pickle ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": ""}, "_target_ is empty"),
        ({"_target_": "no.such.Net"}, "_target_=no.such.Net: cannot be imported"),
        ({"_target_": "torch.nn.Lineer"}, "cannot be imported"),
        ({"_target_": "torch.nn.Linear", "width": 3}, "unexpected keyword argument 'width'"),
        ({"_target_": "builtins.dict"}, "is not called, because it is neither a class of networks"),
    ],
)
def test_bad_model_specs(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        build_model(spec)


def test_weights_that_are_not_those_that_were_written_are_refused(folder: Path) -> None:
    """A flipped bit and an emptied file are named, and so is a file whose checksum nobody kept:
    with it in network.json, by hand, the folder loads again."""
    path, record = folder / "model.safetensors", folder / "network.json"
    written, told = path.read_bytes(), record.read_text()
    for damaged in (written[:-3] + bytes([written[-3] ^ 1]) + written[-2:], b"", written[:40]):
        path.write_bytes(damaged)
        with pytest.raises(LowRankError, match=r"model\.safetensors: the file is damaged") as info:
            load(folder, allow=["tests"])
        sums = [hashlib.sha256(content).hexdigest() for content in (damaged, written)]
        assert all(one in str(info.value) for one in sums) and "\n" not in str(info.value)
    path.write_bytes(written)
    record.write_text(json.dumps(json.loads(told) | {"checksums": {}}))
    with pytest.raises(LowRankError, match="holds no checksum of it") as info:
        load(folder, allow=["tests"])
    added = re.search(r"add (\{.*\}) to checksums", str(info.value))
    assert added is not None
    record.write_text(json.dumps(json.loads(told) | {"checksums": json.loads(added[1])}))
    assert load(folder, allow=["tests"])(TOKENS).isfinite().all()
    path.unlink()
    with pytest.raises(LowRankError, match=r"model\.safetensors: no such file; get the folder"):
        load(folder, allow=["tests"])


def test_a_network_file_that_does_not_fit(folder: Path) -> None:
    path = folder / "network.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"layers": {"nowhere": {"form": "svd", "ranks": [2]}}}, "'nowhere'"),
        ({"layers": {"middle": {"form": "svd", "ranks": [99]}}}, "rank 99 is not in 1..12"),
        ({"layers": {"": {"form": "svd", "ranks": [2]}}}, "'' is a Tied"),
        ({"layers": {"middle": {"form": "pivoted_svd", "ranks": [2]}}}, "has shape"),
        ({"layers": {"middle": {"form": "svdd", "ranks": [2]}}}, "'svdd': did you mean 'svd'"),
        ({"layers": {"middle": {"form": "svd", "ranks": ["2"]}}}, r"layers\.middle\.ranks\.0: "),
        ({"layers": {"middle": {"form": "svd", "ranks": None}}}, r"layers\.middle\.ranks: "),
        ({"layers": []}, "layers: "),
        ({"builder": 3}, "builder: "),
        ({"format": 7}, "format: "),
    ]:
        path.write_text(json.dumps(good | change))
        with pytest.raises(LowRankError, match=message) as info:
            load(folder, allow=["tests"])
        assert "\n" not in str(info.value)
    path.unlink()
    with pytest.raises(LowRankError, match=r"network\.json: cannot be read .*a saved network"):
        load(folder, allow=["tests"])


def test_a_large_network_is_saved_in_shards_and_comes_back_to_the_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, spec = load(folder, allow=["tests"]), read_network(folder).builder
    monkeypatch.setattr(shards, "SHARD", 1000)
    many = tmp_path / "many"
    save(one, many, spec)
    files = weight_files(many)
    assert len(files) >= 2 and not (many / "model.safetensors").exists()
    assert [path.name for path in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    index = json.loads((many / "model.safetensors.index.json").read_text())
    found = {key: path.name for path in files for key in load_file(path)}
    assert index["weight_map"] == found and found.keys() == load_file(folder / WEIGHTS).keys()
    bytes_of = [sum(value.nbytes for value in load_file(path).values()) for path in files]
    assert sum(bytes_of) == index["metadata"]["total_size"]
    assert all(b <= 1000 or len(load_file(p)) == 1 for b, p in zip(bytes_of, files, strict=True))
    for mapped in (False, True):
        again = load(many, allow=["tests"], mapped=mapped)
        assert torch.equal(again(TOKENS), one(TOKENS))
        assert again.head.weight is again.embedding.weight
    before = weights_sha256(many)
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"?")
    assert weights_sha256(many) != before
    with pytest.raises(LowRankError, match=r"model-00002-of-\d+\.safetensors: the file is damaged"):
        load(many, allow=["tests"])
    files[1].unlink()
    with pytest.raises(LowRankError, match=r"model-00002-of-\d+\.safetensors: no such file"):
        load(many, allow=["tests"])
    monkeypatch.undo()
    save(one, many, spec)
    assert sorted(path.name for path in many.iterdir()) == [WEIGHTS, "network.json"]
    assert weights_sha256(many) == weights_sha256(folder)
