"""The data of the plots against planted spectra."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from pipeline.reporting.names import largest, short
from pipeline.reporting.run.facts import Facts, read_facts
from pipeline.reporting.run.plot_rows import MOST_POINTS, fine_tune_rows, kept_rank, thin
from pipeline.reporting.run.rows import (
    KINDS,
    ErrorRow,
    columns,
    write_csv,
    write_plots,
)
from pipeline.reporting.run.write import plot_rows
from pipeline.training.curve import Curve, EpochPoint, StepPoint
from tests.reporting.report_case import (
    SMALL,
    Layers,
    curve,
    many_layers,
    write_case,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return _facts(tmp_path_factory.mktemp("small"), SMALL)


def _facts(folder: Path, layers: Layers) -> Facts:
    write_case(folder / "out", layers)
    return read_facts(folder / "out")


def test_spectra_are_the_planted_power_laws(small: Facts) -> None:
    rows = plot_rows(small).spectra
    for place, (name, (shape, _, _)) in enumerate(SMALL.items()):
        # mode 0 of a kernel is its matrix view; so is the one view of a matrix
        mine = [r for r in rows if r.layer == name and r.view in ("mode0", "matrix")]
        assert len(mine) == min(shape[0], math.prod(shape[1:]))
        alpha = 0.5 + 0.1 * (place % 7)
        for row in mine:
            assert row.singular_value == pytest.approx(row.index**-alpha, rel=1e-6)


def test_energy_matches_an_svd_and_ends_at_one(small: Facts, tmp_path: Path) -> None:
    weights = write_case(tmp_path / "out")
    rows = [r for r in plot_rows(small).energy if r.layer == "blocks.0.conv2"]
    for view, mode in (("mode0", 0), ("mode1", 1)):
        unfolded = weights["blocks.0.conv2"].movedim(mode, 0).flatten(1)
        squared = torch.linalg.svdvals(unfolded).square()
        expected = (squared.cumsum(0) / squared.sum()).tolist()
        energy = [r.energy for r in rows if r.view == view]
        assert energy == pytest.approx(expected, rel=1e-9)
        assert energy == sorted(energy)
        assert energy[-1] == pytest.approx(1.0, abs=1e-12)
    assert {(r.view, r.kept_rank) for r in rows} == {("mode0", 12), ("mode1", 10)}


def test_ranks_and_kept_parameters(small: Facts) -> None:
    rows = {(r.layer, r.view): r for r in plot_rows(small).ranks}
    out = rows["blocks.0.conv1", "mode0"]
    assert (out.rank, out.full_rank, out.rank_fraction) == (9, 32, 9 / 32)
    assert rows["blocks.0.conv1", "mode1"].rank == 6
    assert rows["blocks.0.skip", "matrix"].rank_fraction == pytest.approx(5 / 16)
    assert rows["hidden", "matrix"].params_fraction == pytest.approx(11 * (64 + 48) / (64 * 48))
    assert rows["stem", "mode0"].rank_fraction == 1.0
    assert rows["blocks.10.conv1", "mode1"].rank == 14


def test_svd_of_a_kernel_cuts_one_view(tmp_path: Path) -> None:
    facts = _facts(tmp_path, {"conv": ((32, 16, 3, 3), "svd", [4])})
    rows = plot_rows(facts)
    assert [(r.view, r.rank) for r in rows.ranks] == [("mode0", 4)]
    kept = {r.view: r.kept_rank for r in rows.energy}
    assert kept == {"mode0": 4, "mode1": 16}


def test_kept_rank_never_exceeds_the_view() -> None:
    assert kept_rank((40,), (), "mode1", 16) == 16  # a CP rank may exceed a mode
    assert kept_rank((5, 7), ("mode0", "mode1"), "mode1", 16) == 7
    assert kept_rank((), (), "mode0", 16) == 16


def test_errors_lie_in_their_bounds(small: Facts) -> None:
    rows = plot_rows(small).errors
    factorized = [name for name, (_, method, _) in SMALL.items() if method != "dense"]
    assert [row.layer for row in rows] == factorized
    for row in rows:
        assert row.lower - 1e-9 <= row.measured <= row.upper + 1e-9
        assert row.measured > 0.1


def test_fine_tuning_joins_steps_and_epochs() -> None:
    rows = fine_tune_rows(curve([0.5, 0.75], best=1, steps=4))
    assert [row.step for row in rows] == [0, 1, 3, 4]
    assert rows[0].train_loss is None
    assert rows[0].validation_accuracy == 0.5
    assert rows[1].validation_loss is None
    assert rows[1].train_loss == pytest.approx(1 / 1.2 + 0.02)
    assert (rows[3].epoch, rows[3].validation_loss) == (1, 0.5)


@pytest.mark.parametrize("count", [1, 7, 200, 201, 5000])
def test_thin_keeps_ends_and_marks(count: int) -> None:
    points = thin(count, 200, keep=(min(137, count),))
    assert points == sorted(set(points))
    assert (points[0], points[-1]) == (1, count)
    assert min(137, count) in points
    assert len(points) <= min(count, 201)
    assert len(points) > min(count, 120) - 1


def test_long_curves_stay_short(tmp_path: Path) -> None:
    facts = _facts(tmp_path, {"wide": ((700, 720), "svd", [333])})
    rows = plot_rows(facts).spectra
    assert 100 < len(rows) <= MOST_POINTS + 1
    assert 333 in [row.index for row in rows]


def test_csv_files_are_tidy(small: Facts, tmp_path: Path) -> None:
    rows = plot_rows(small)
    write_plots(tmp_path, rows)
    for name, kind in KINDS.items():
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            read = list(csv.DictReader(file))
        assert tuple(read[0]) == columns(kind)
        assert len(read) == len(getattr(rows, name)) > 0
        assert all(type(row) is kind for row in getattr(rows, name))
    with (tmp_path / "fine_tune.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["step"], first["train_loss"], first["validation_accuracy"]) == ("0", "", "0.9")


def test_csv_without_rows_has_its_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "errors.csv", [], ErrorRow)
    header = "layer,method,predicted,measured,lower,upper,theorem\n"
    assert (tmp_path / "errors.csv").read_text() == header


def test_bounds_are_those_of_the_file_in_the_networks_order(tmp_path: Path) -> None:
    facts = _facts(tmp_path, SMALL)
    rows = plot_rows(facts)
    factorized = [name for name, (_, method, _) in SMALL.items() if method != "dense"]
    assert [row.layer for row in rows.bounds] == factorized
    assert all(0 < row.measured < row.bound for row in rows.bounds)
    network = {row.figure: row.value for row in rows.network_bounds}
    assert network == {
        "measured": 3.5, "certificate": 420.0, "worst_case": 123456.0, "printed_formula": 77.0
    }  # fmt: skip
    assert rows.network_bounds[3].certifies == "nothing: it is not a bound"


def test_largest_keeps_the_order_and_short_keeps_the_ends() -> None:
    assert largest(["a", "b", "c"], {"a": 1, "b": 3, "c": 2}, 2) == ["b", "c"]
    assert short("layers.0.conv") == "layers.0.conv"
    assert short("") == "(root)"
    name = short("model.decoder.layers.11.self_attention.query_projection", 30)
    assert len(name) == 30
    assert name.startswith("model.dec")
    assert name.endswith("query_projection")


def test_a_training_that_ran_out_of_time_has_its_validation_on_its_last_row() -> None:
    """It stands at a fraction of an epoch."""
    steps = [StepPoint(3, 0.5, 0.4, gradient_squared_norm=1.0, learning_rate=0.1)]
    rows = fine_tune_rows(Curve(steps, [EpochPoint(n, 3 * n, 1.0 - n / 2, 0.5) for n in range(2)]))
    assert (rows[-1].epoch, rows[-1].validation_loss) == (0.5, 0.5)


def test_many_layers_are_all_kept_in_the_rows(tmp_path: Path) -> None:
    rows = plot_rows(_facts(tmp_path, many_layers(30)))
    assert len({row.layer for row in rows.ranks}) == 30
