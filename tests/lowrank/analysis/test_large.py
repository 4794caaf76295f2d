"""Spectra of large networks: each layer's are on disk as soon as they are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis import spectra as room
from pipeline.lowrank.analysis.analysis import analyze


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 20), nn.Linear(20, 10))


def test_spectra_are_spilled_and_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example, plain = torch.randn(1, 3, 4, 4), analyze(net(), torch.randn(1, 3, 4, 4))
    with monkeypatch.context() as patch:
        computed = room.analyze_weight

        def once(weight: torch.Tensor, groups: int = 1) -> room.Spectra:
            if len(list(tmp_path.glob("*.safetensors"))) == 2:
                raise KeyboardInterrupt
            return computed(weight, groups)

        patch.setattr(room, "analyze_weight", once)
        with pytest.raises(KeyboardInterrupt):
            analyze(net(), example, spill=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 2
    found = analyze(net(), example, spill=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "not computed again"
    assert list(found.spectra) == list(plain.spectra) and len(list(tmp_path.iterdir())) == 3
    for name, one in plain.spectra.items():
        for key, view in one.views.items():
            assert torch.equal(found.spectra[name].views[key].basis, view.basis)
            assert torch.equal(found.spectra[name].views[key].eigenvalues, view.eigenvalues)
    plans = [lr.plan_from(net(), a, lr.Budget(params=0.7)) for a in (plain, found)]
    assert plans[0].layers == plans[1].layers


def test_spilled_spectra_that_were_damaged_are_computed_again(tmp_path: Path) -> None:
    example = torch.randn(1, 3, 4, 4)
    plain = analyze(net(), example, spill=tmp_path)
    file = sorted(tmp_path.iterdir())[0]
    whole = file.read_bytes()
    file.unlink()  # and not written over: `plain` reads from it
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    with pytest.warns(UserWarning, match="its content is not what was written; it was removed"):
        again = analyze(net(), example, spill=tmp_path)
    assert file.read_bytes() == whole
    for name, one in plain.spectra.items():
        for key, view in one.views.items():
            assert torch.equal(again.spectra[name].views[key].basis, view.basis)


def test_a_mapped_network_is_the_saved_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False))
    model[2].weight = model[0].weight  # tied
    model.to(torch.bfloat16).register_buffer("steps", torch.arange(3))
    lr.save(model, tmp_path, {"_target_": f"{__name__}.tied"})
    mapped = lr.load(tmp_path, allow=[tied], mapped=True)
    for key, value in model.state_dict().items():
        assert torch.equal(mapped.state_dict()[key], value)
        assert mapped.state_dict()[key].dtype == value.dtype
    assert mapped[2].weight is mapped[0].weight
    with torch.no_grad():
        mapped[1].weight.zero_()  # its own copy: the file stays as it is
    assert torch.equal(lr.load(tmp_path, allow=[tied])[1].weight, model[1].weight)


def tied() -> nn.Module:
    """The network of the test above."""
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False))
    model[2].weight = model[0].weight
    model.register_buffer("steps", torch.zeros(3, dtype=torch.int64))
    return model
