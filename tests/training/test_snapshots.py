"""States of training on disk: which ones, that training does not notice, and their spectra."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.lowrank import LowRankError
from pipeline.lowrank.forms.files import load, save
from pipeline.lowrank.forms.weights import save_weights
from pipeline.lowrank.typed import save_record
from pipeline.machine.devices import FabricOptions, make_fabric
from pipeline.training.baseline import make_baseline
from pipeline.training.curve import CURVE, Curve, EpochPoint
from pipeline.training.snapshots import snapshot_steps, states_in, training_states
from pipeline.training.weight_history import weights_in_training
from tests.training.test_baseline import SPEC, TRAIN, build


def trained(folder: Path, digits: Path, snapshots: int) -> tuple[dict[str, Tensor], Curve]:
    fabric = make_fabric(FabricOptions(threads=1), 0)
    options = replace(TRAIN, snapshots=snapshots)
    curve = make_baseline(folder, digits, SPEC, options, fabric=fabric, seed=0)
    save_record(folder / CURVE, curve)
    return load_file(folder / "model.safetensors"), curve


def test_steps_are_evenly_spaced_and_inside() -> None:
    assert snapshot_steps(4, 100) == {20, 40, 60, 80}
    assert snapshot_steps(0, 100) == set()
    assert snapshot_steps(1, 7) == {4}
    assert snapshot_steps(9, 3) == {1, 2}, "no more than there are"


def test_training_does_not_notice_and_the_spectra_follow_it(tmp_path: Path, digits: Path) -> None:
    plain, plain_curve = trained(tmp_path / "plain", digits, 0)
    kept, kept_curve = trained(tmp_path / "kept", digits, 2)
    assert plain_curve == kept_curve
    assert all(torch.equal(plain[name], kept[name]) for name in plain)
    assert not (tmp_path / "plain/snapshots").exists()

    total = kept_curve.epochs[-1].step
    files = sorted((tmp_path / "kept/snapshots").iterdir())
    assert [int(path.stem) for path in files] == sorted(snapshot_steps(2, total))
    matrices = load_file(files[0])
    assert set(matrices) == {n for n, p in build().named_parameters() if p.dim() > 1}

    best = kept_curve.epochs[kept_curve.best_epoch].step
    model = load(tmp_path / "kept")
    spectra = weights_in_training(tmp_path / "kept", model, ["stem.0", "head.0"])
    before = [step for step in sorted(snapshot_steps(2, total)) if step < best]
    assert spectra.steps == (0, *before, best)
    assert len(before) >= 1
    states = [load_file(tmp_path / "kept/init.safetensors"), *map(load_file, files)]
    for place, state in enumerate([*states[: len(before) + 1], kept]):
        exact = torch.linalg.svdvals(state["head.0.weight"].double())
        assert torch.allclose(spectra.values["head.0"][place], exact, rtol=1e-5)
    assert not torch.equal(spectra.values["head.0"][0], spectra.values["head.0"][1])
    assert spectra.effects["head.0"].leading_ratio != 1.0


def test_without_snapshots_two_states_are_compared(tmp_path: Path, digits: Path) -> None:
    trained(tmp_path, digits, 0)
    spectra = weights_in_training(tmp_path, load(tmp_path), ["head.0"])
    assert len(spectra.steps) == 2
    assert spectra.effects["head.0"].rank_rose_then_fell is None
    assert spectra.effects["head.0"].leading_grew is not None


def test_networks_that_were_not_trained_here_say_so(tmp_path: Path, digits: Path) -> None:
    model = build()
    save(model, tmp_path / "imported", SPEC)
    spectra = weights_in_training(tmp_path / "imported", model, ["head.0"])
    assert spectra.absent == "the weights were imported, not trained here"
    assert spectra.effects == spectra.initial == {}
    assert spectra.trained["head.0"].effective_rank > 1

    save(model, tmp_path / "stuck", SPEC)
    (tmp_path / "stuck/model.safetensors").rename(tmp_path / "stuck/init.safetensors")
    curve = Curve(epochs=[EpochPoint(0, 0, validation_loss=1.0, validation_accuracy=0.5)])
    save_record(tmp_path / "stuck" / CURVE, curve)
    spectra = weights_in_training(tmp_path / "stuck", model, ["head.0"])
    assert spectra.absent == "training never improved on the initial weights"


def test_a_snapshot_of_another_network_is_named(tmp_path: Path) -> None:
    model = build()
    save_weights(model, tmp_path / "init.safetensors")
    (tmp_path / "snapshots").mkdir()
    file = tmp_path / "snapshots/00000005.safetensors"
    save_file({"head.0.weight": torch.ones(2, 3)}, file)
    save(model, tmp_path, SPEC, beside=states_in(tmp_path))
    with pytest.raises(LowRankError, match=r"00000005\.safetensors: does not fit the model"):
        list(training_states(tmp_path, 9, SPEC))
    save_file({"head.0.weight": torch.ones(3, 3)}, file)
    with pytest.raises(LowRankError, match=r"00000005\.safetensors: the file is damaged or"):
        list(training_states(tmp_path, 9, SPEC))
