"""Spectra of large networks: each layer's are on disk as soon as they are known."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis import leading
from pipeline.lowrank.analysis import spectra as room
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.network import linalg


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


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (60, 60), (3 * 20, 30)])
def test_values_and_directions_of_large_matrices_are_those_of_the_whole(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the float64 decomposition: values to rounding; the truncation loses at most 10⁻⁸ of
    the norm, and its product is the same."""
    monkeypatch.setattr(linalg, "_BLOCK", 16)  # of several rows of blocks
    groups = 3 if shape == (60, 30) else 1
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole, found = room.analyze_weight(weight, groups), room.analyze_values(weight, groups)
    assert found.values_alone and not whole.values_alone and found.groups == groups
    assert found.squared_norm == pytest.approx(whole.squared_norm, rel=1e-14)
    squares = whole.views["mode0"].eigenvalues
    apart = (found.views["mode0"].eigenvalues - squares).abs().max()
    assert apart <= 1e-13 * squares[0]
    with pytest.raises(lr.LowRankError, match="7 directions are asked of spectra that keep 0"):
        lr.SVD().factorize(weight, found, (7,))
    full = room.with_directions(found, weight, 7, "w")
    products = []
    for spectra in (full, whole):
        right, left = lr.SVD().factorize(weight, spectra, (7,))
        products.append(room.split_groups(left, groups) @ room.split_groups(right, groups))
    assert torch.allclose(*products, atol=1e-5)
    basis = full.views["mode0"].leading(7)
    gram = basis.mT @ basis
    assert torch.allclose(gram, torch.eye(7, dtype=torch.float64).expand_as(gram), atol=1e-13)
    matrices = room.split_groups(weight.double(), groups)
    for product in (products[0], basis @ (basis.mT @ matrices)):
        excess = (matrices - product).norm() - whole.views["mode0"].tails[7].sqrt()
        assert -1e-12 <= excess <= 1e-8 * matrices.norm()


def test_what_float32_does_not_tell_apart_is_computed_in_float64() -> None:
    """σᵢ = 1/i⁴: float32 sees noise from σ ≈ 10⁻⁴ on; and a matrix of zeros has no directions."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(2, 50, 50, generator=generator).double()).Q
    weight = left * torch.arange(1, 51) ** -4.0 @ right
    for matrix in (weight, torch.zeros(8, 50)):
        known, rank = room.analyze_values(matrix), 8
        with pytest.warns(UserWarning, match=r"'w': 8 directions in float32 miss .* in float64"):
            found = room.with_directions(known, matrix, rank, "w").views["mode0"].basis
        assert torch.equal(found, room.analyze_weight(matrix).views["mode0"].basis[..., :rank])


def test_directions_beside_a_few_strong_ones_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six directions hold 10⁵ times what each of the others does, as of a language model's weight
    in the metric fisher."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(2, 120, 90, generator=generator).double()).Q
    values = torch.cat([torch.linspace(300, 100, 6), torch.linspace(1, 0.05, 84)]).double()
    whole = left * values @ right.mT
    for matrix in (whole, whole[:100], whole[:, :100]):
        known, rank, state = room.analyze_values(matrix), 50, torch.get_rng_state()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = room.with_directions(known, matrix, rank, "w").views["mode0"]
        assert torch.equal(torch.get_rng_state(), state)
        assert found.right is not None
        excess = (matrix - found.basis[0] @ found.right[0]).norm() - found.tails[rank].sqrt()
        assert -1e-12 * matrix.norm() <= excess <= 1e-10 * matrix.norm()
        with monkeypatch.context() as patch:
            patch.setattr(leading, "_DOUBT", torch.inf)  # nothing apart
            with pytest.warns(UserWarning, match="50 directions in float32 miss"):
                room.with_directions(known, matrix, rank, "w")


@pytest.mark.parametrize("metric", ["weight", "fisher"])
def test_a_large_network_keeps_no_bases_and_becomes_the_same(
    metric: Literal["weight", "fisher"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(48, 24), nn.Linear(24, 40), nn.Linear(40, 4))

    chosen, x = lr.AnalysisOptions(metric=metric), [torch.randn(100, 48)]
    plain = analyze(small(), calibration=x, chosen=chosen)
    monkeypatch.setattr(room, "LARGE", 24)
    spilled = analyze(small(), calibration=x, chosen=chosen, spill=tmp_path)
    assert [one.values_alone for one in spilled.spectra.values()] == [True, True, False]
    built = []
    for found in (plain, spilled):
        net = small()
        plan = lr.plan_from(net, found, lr.Budget(params=0.5))
        built.append(lr.apply_(net, plan))
    assert built[0].plan.layers == built[1].plan.layers
    x = torch.randn(8, 48)
    assert torch.allclose(built[0].network(x), built[1].network(x), atol=1e-5)
    for one, other in zip(built[0].layers.values(), built[1].layers.values(), strict=True):
        difference = one.measured_relative_error - other.measured_relative_error
        assert abs(difference) < 1e-7 and one.upper_bound == pytest.approx(other.upper_bound, 1e-12)
