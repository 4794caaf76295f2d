"""Spectra of weights in training: what they say of planted changes, and files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.analysis.diagnostics import (
    Claim,
    count_claims,
    diagnose,
    effective_rank,
    energy_rank,
    measure_training,
    numerical_rank,
    stable_rank,
)
from pipeline.lowrank.analysis.files import load_analysis, save_analysis
from pipeline.lowrank.analysis.history import (
    load_weight_spectra,
    save_weight_spectra,
    weight_spectra,
)
from pipeline.lowrank.errors import LowRankError

FLAT = torch.linspace(1.2, 0.8, 40, dtype=torch.float64)
STEEP = torch.cat([torch.full((4,), 3.0), torch.linspace(0.6, 0.1, 36)]).double()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.Conv2d(12, 12, 3, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(12 * 64, 20),
    )


def test_a_planted_course_of_training_is_read_back() -> None:
    """Leading values tripled, trailing ones shrank, the rank rose by a detour over equal values."""
    effect = measure_training([FLAT, torch.ones(40, dtype=torch.float64), STEEP])
    assert effect.leading_ratio == pytest.approx(3.0 * 2 / float(FLAT[:4].norm()))
    assert effect.trailing_ratio == pytest.approx(float(STEEP[20:].norm() / FLAT[20:].norm()))
    assert effect.norm_ratio == pytest.approx(float(STEEP.norm() / FLAT.norm()))
    assert effect.effective_ranks[1] == pytest.approx(40.0)
    assert effect.effective_ranks[2] < effect.effective_ranks[0] < 40.0
    assert effect.peak == 1
    assert effect.leading_grew and effect.trailing_shrank and effect.rank_rose_then_fell


def test_claims_that_fail_and_claims_that_nothing_decides() -> None:
    backwards = measure_training([STEEP, 0.5 * (STEEP + FLAT), FLAT])
    assert backwards.leading_grew is False
    assert backwards.trailing_shrank is False
    assert backwards.rank_rose_then_fell is False
    zero = torch.zeros(40, dtype=torch.float64)
    unknown = measure_training([zero, STEEP])
    assert unknown.leading_ratio is unknown.leading_grew is unknown.rank_rose_then_fell is None
    low_rank = torch.cat([STEEP[:5], zero[:35]])
    assert measure_training([low_rank, STEEP]).trailing_ratio is None
    single = measure_training([torch.tensor([2.0]).double(), torch.tensor([3.0]).double()])
    assert single.leading_ratio == single.trailing_ratio == 1.5
    counts = count_claims([backwards, unknown, measure_training([FLAT, STEEP])])
    assert counts.leading_grew == Claim(holds=1, of=2)
    assert counts.rank_rose_then_fell == Claim(holds=0, of=1)


def test_a_tremor_of_the_effective_rank_is_no_rise() -> None:
    almost = FLAT.clone()
    almost[0] -= 1e-3
    assert effective_rank(almost) > effective_rank(FLAT)
    assert measure_training([FLAT, almost, FLAT]).rank_rose_then_fell is False


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (torch.zeros(6), (6, 9)),
        (torch.tensor([2.0]), (1, 5)),
        (torch.tensor([5.0, 3.0]), (40, 50)),
        (torch.ones(8), (8, 8)),
        (STEEP, (40, 60)),
    ],
    ids=["zero", "one value", "rank-deficient", "orthogonal", "trained"],
)
def test_every_spectrum_has_a_diagnosis(values: Tensor, shape: tuple[int, int]) -> None:
    found = diagnose(values.double(), shape)
    rank = int((values > 0).sum())
    assert found.numerical_rank == rank == numerical_rank(values.double())
    assert found.stable_rank <= found.effective_rank + 1e-9 <= rank + 2e-9
    assert found.energy_90 <= found.energy_99 <= rank
    assert found.evbmf_rank <= rank and found.optimal_threshold_rank <= rank
    assert (found.noise is None) == (min(shape) < 8 or 2 * rank < min(shape))


def test_energy_rank_is_the_first_that_reaches_it() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 1.0], dtype=torch.float64)  # energies 9, 13, 14, 15
    assert [energy_rank(values, e) for e in (0.1, 0.61, 0.9, 0.95)] == [1, 2, 3, 4]
    assert energy_rank(torch.zeros(3).double(), 0.9) == 0
    assert stable_rank(torch.zeros(0).double()) == 0.0


def test_a_network_in_training(tmp_path: Path) -> None:
    model, earlier = network(), network()
    names = ["0", "1", "3"]

    def states() -> Iterator[tuple[int, nn.Module]]:
        for step, factor in ((0, 0.25), (7, 0.5)):
            for start, trained in zip(earlier.parameters(), model.parameters(), strict=True):
                start.data = factor * trained.data
            yield step, earlier

    spectra = weight_spectra(model, names, step=11, earlier=states())
    assert spectra.steps == (0, 7, 11)
    assert spectra.shapes == {"0": (12, 27), "1": (12, 27), "3": (20, 768)}
    for name in names:
        exact = torch.linalg.svdvals(model.get_submodule(name).weight.detach().double().flatten(1))
        for place, factor in enumerate((0.25, 0.5, 1.0)):
            # The states are read while the one module still holds them.
            assert torch.allclose(spectra.values[name][place], factor * exact, rtol=1e-6)
        assert spectra.effects[name].leading_ratio == pytest.approx(4.0, rel=1e-6)
    claims = spectra.course().claims
    assert claims is not None and claims.leading_grew == Claim(holds=3, of=3)
    save_weight_spectra(tmp_path, spectra)
    read = load_weight_spectra(tmp_path)
    assert (read.steps, read.shapes, read.absent) == (spectra.steps, spectra.shapes, None)
    assert all(torch.equal(read.values[name], spectra.values[name]) for name in names)
    assert list(read.values) == names


def test_the_noise_of_an_initialisation_is_its_formula() -> None:
    """Kaiming's uniform init of nn.Linear has variance 1/(3·inputs)."""
    torch.manual_seed(1)
    spectra = weight_spectra(nn.Sequential(nn.Linear(400, 300)), ["0"])
    noise = spectra.trained["0"].noise
    assert noise is not None
    assert noise.scale == pytest.approx((1 / (3 * 400)) ** 0.5, rel=0.02)
    assert noise.spikes == 0 and noise.ks < 0.02


def test_analysis_json_tells_it_or_says_why_not(tmp_path: Path) -> None:
    model = nn.Linear(12, 9)
    analysis = analyze(model, torch.zeros(1, 12))
    spectra = weight_spectra(model, [""], absent="imported")
    save_analysis(tmp_path, analysis, spectra)
    written = json.loads((tmp_path / "analysis.json").read_text())
    assert written["training"] == {"steps": [0], "absent": "imported", "claims": None}
    told = written["targets"][""]["weights"]
    assert told["initial"] is told["training"] is None
    assert told["trained"]["noise"]["edge"] == pytest.approx(spectra.trained[""].noise.edge)  # type: ignore[union-attr]
    assert load_analysis(tmp_path).totals == analysis.totals
    assert torch.equal(load_weight_spectra(tmp_path).values[""], spectra.values[""])
    (tmp_path / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(LowRankError, match=r"weights\.safetensors: no readable spectra .*rerun"):
        load_weight_spectra(tmp_path)
