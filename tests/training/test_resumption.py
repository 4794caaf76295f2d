"""A training that was stopped goes on to the same bits, and a damaged state starts anew."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.data.splits import Split
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import Classification
from pipeline.machine.checksums import file_sha256
from pipeline.training.losses import Batch, Objective, label_loss
from pipeline.training.resumption import Resumption
from pipeline.training.train import train
from tests.training.test_optimizers import OPTIONS, network, splits

__all__ = ["splits"]  # a fixture


class StoppedError(Exception):
    pass


def interrupted(after: int) -> Objective:
    """The cross-entropy, until it was asked for so often."""
    calls = []

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(batch)
        if len(calls) > after:
            raise StoppedError
        return label_loss(Classification(), 0.0)(model, batch)

    return objective  # type: ignore[return-value]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("after", [9, 17, 18, 19, 35])
def test_a_stopped_training_goes_on_to_the_same_bits(
    splits: tuple[Split, Split],
    fabric: Fabric,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    after: int,
) -> None:
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path))
    options = replace(OPTIONS, optimizer=optimizer)

    def trained(resumption: Resumption | None, objective: Objective | None = None) -> tuple:
        model = network()
        curve = train(
            model,
            *splits,
            options,
            Classification(),
            fabric=fabric,
            seed=3,
            objective=objective,
            resumption=resumption,
            descent_points=3,
        )
        return model.state_dict(), curve

    torch.manual_seed(7)
    whole, whole_curve = trained(None)
    torch.manual_seed(7)
    with pytest.raises(StoppedError):
        trained(Resumption(["a"], fabric, seconds=0.0), interrupted(after))
    kept = Resumption(["a"], fabric, seconds=0.0)
    assert len(kept.files()) == 1
    taken: list[int] = []

    def counting(model: nn.Module, batch: Batch) -> Tensor:
        taken.append(1)
        return label_loss(Classification(), 0.0)(model, batch)

    state, curve = trained(kept, counting)  # type: ignore[arg-type]
    assert curve == whole_curve
    assert all(torch.equal(state[name], value) for name, value in whole.items())
    assert len(taken) == 3 * 10 + 3 * 2 * 4 - after  # steps and measurements that were left
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_whole_state_of_another_version_is_removed_with_a_line(
    splits: tuple[Split, Split], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path))
    kept = Resumption(["a"], fabric)
    for change in ({"best": {}}, {"optimizer": {}}, {"model": {}}):
        with pytest.raises(StoppedError):
            train(network(), *splits, OPTIONS, Classification(), fabric=fabric, seed=3,
                  objective=interrupted(3),
                  resumption=Resumption(["a"], fabric, seconds=0.0))  # fmt: skip
        (file,) = kept.files()
        torch.save(torch.load(file, weights_only=True) | change, file)
        file.rename(file.with_name(f"{kept.name}.{file_sha256(file)}.ckpt"))
        with pytest.raises(LowRankError, match=r"does not fit it .* run the same command again"):
            train(network(), *splits, OPTIONS, Classification(), fabric=fabric, seed=3,
                  resumption=kept)  # fmt: skip
        assert not kept.files()


def test_another_training_starts_afresh(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path))
    one = Resumption([{"b": 1, "a": 2}], fabric)
    assert one.name == Resumption([{"a": 2, "b": 1}], fabric).name
    other = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    assert len({x.name for x in (one, Resumption([2], fabric), Resumption([1], fabric))}) == 3
    assert Resumption([1], fabric).name != Resumption([1], other).name


def test_a_damaged_state_is_told_and_dropped(
    splits: tuple[Split, Split],
    fabric: Fabric,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Cut, flipped, emptied, not torch's, or of more steps than there are: the training starts
    anew, and gives what it gives without."""
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path))

    def trained(objective: Objective | None = None) -> dict[str, Tensor]:
        torch.manual_seed(7)
        model = network()
        kept = Resumption(["a"], fabric, seconds=0.0)
        options = replace(OPTIONS, epochs=1)
        train(model, *splits, options, Classification(), fabric=fabric, seed=3,
              objective=objective, resumption=kept)  # fmt: skip
        return model.state_dict()

    def named_by_content(content: bytes) -> str:
        return f"{Resumption(['a'], fabric).name}.{hashlib.sha256(content).hexdigest()}.ckpt"

    whole = trained()
    with pytest.raises(StoppedError):
        trained(interrupted(3))
    (file,) = Resumption(["a"], fabric).files()
    written = file.read_bytes()
    assert file.name == named_by_content(written)
    state = torch.load(file, weights_only=True)
    torch.save(state | {"done": 10**9}, tmp_path / "more")
    more = (tmp_path / "more").read_bytes()
    middle = len(written) // 2
    flipped = written[:middle] + bytes([written[middle] ^ 1]) + written[middle + 1 :]
    for content, name, why in (
        (written[:middle], file.name, "not what was written"),
        (flipped, file.name, "not what was written"),
        (b"", file.name, "not what was written"),
        (b"no zip", named_by_content(b"no zip"), "no state of a training"),
        (more, named_by_content(more), "it claims 1000000000 of 10 steps"),
    ):
        (file.parent / name).write_bytes(content)
        again = trained()
        told = capsys.readouterr().err
        assert why in told and told.count("\n") == 1 and name in told
        assert all(torch.equal(again[key], value) for key, value in whole.items())
        assert not list(tmp_path.rglob("*.ckpt"))
