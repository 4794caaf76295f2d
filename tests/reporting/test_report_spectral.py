"""spectra.csv, its figures and its sentences, against the planted training of `report_case`."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.lowrank.analysis.diagnostics import Claim, diagnose, effective_rank
from pipeline.lowrank.analysis.history import WeightSpectra
from pipeline.lowrank.analysis.record import AnalysisRecord
from pipeline.reporting.run.facts import Facts, read_facts
from pipeline.reporting.run.page.weights import MOST, training_table, weights_cards
from pipeline.reporting.run.plot_rows import FEWEST_POINTS, MOST_ROWS
from pipeline.reporting.run.rows import columns, write_csv
from pipeline.reporting.run.spectral import (
    SpectralRow,
    spectral_figures,
    spectral_rows,
    training_rows,
    weight_rows,
)
from pipeline.reporting.run.story import Story, read_story
from pipeline.reporting.run.summary import spectra_sentences
from tests.reporting.report_case import SMALL, Layers, many_layers, write_case, write_run


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    root = tmp_path_factory.mktemp("case")
    write_case(root / "out")
    return read_facts(root / "out")


def story_of(folder: Path, layers: Layers = SMALL) -> Story:
    return read_story(write_run(folder / "run", layers))


def untrained(facts: Facts) -> Facts:
    """The same network as an imported one: only its trained weights are known."""
    last = {name: values[-1:] for name, values in facts.weights.values.items()}
    weights = WeightSpectra((0,), "imported", facts.weights.shapes, last)
    return replace(facts, analysis=diagnosed(facts, weights), weights=weights)


def diagnosed(facts: Facts, weights: WeightSpectra) -> AnalysisRecord:
    """The analysis with what these spectra say of the weights."""
    targets = facts.analysis.targets
    some = next(iter(targets.values()))
    return replace(
        facts.analysis,
        targets={
            name: replace(targets.get(name, some), weights=weights.diagnosis(name))
            for name in weights.shapes
        },
        training=weights.course(),
    )


def test_the_table_holds_the_planted_spectra(facts: Facts, tmp_path: Path) -> None:
    rows = spectral_rows(facts)
    assert [row.name for row in rows] == list(SMALL)
    for place, (row, (shape, _, _)) in enumerate(zip(rows, SMALL.values(), strict=True)):
        assert row.rows == shape[0]
        assert row.alpha == pytest.approx(0.5 + 0.1 * (place % 7), rel=1e-6)
        assert (row.alpha_poor, row.leading_grew) == ("no", "yes")
        known = diagnose(facts.weights.values[row.name][-1], (row.rows, row.columns))
        assert row.stable_rank == pytest.approx(known.stable_rank)
        first = effective_rank(facts.weights.values[row.name][0])
        assert row.effective_rank_initial == pytest.approx(first) != row.effective_rank
        assert row.spikes_initial == 0, "noise has no spikes"
        assert row.noise_scale != row.noise_scale_initial
    write_csv(tmp_path / "spectra.csv", rows, SpectralRow)
    with (tmp_path / "spectra.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == columns(SpectralRow)
    assert float(read[2]["edge"]) == pytest.approx(rows[2].edge, rel=1e-8)


def test_headline_and_sentences(facts: Facts) -> None:
    headline = spectral_figures(facts)
    rows = spectral_rows(facts)
    assert headline.layers == len(SMALL)
    assert headline.spikes == sum(row.spikes or 0 for row in rows) > 0
    assert headline.leading_grew == Claim(holds=len(SMALL), of=len(SMALL))
    fraction = sum(r.effective_rank / min(r.rows, r.columns) for r in rows) / len(rows)
    assert headline.effective_rank_fraction == pytest.approx(fraction)
    assert fraction < headline.effective_rank_fraction_initial <= 1
    sentences = spectra_sentences(headline)
    assert f"{headline.spikes} spikes" in sentences[0]
    assert "leading singular values grew in 7 of 7 layers" in sentences[1]
    assert len(sentences) == 3 and max(map(len, sentences)) <= 80
    assert len(spectra_sentences(spectral_figures(untrained(facts)))) == 1


def test_rows_of_the_plots_are_the_spectra(facts: Facts) -> None:
    rows = weight_rows(facts)
    head = [row for row in rows if row.layer == "hidden"]
    for state, place in (("initial", 0), ("trained", 2)):
        values = [row.singular_value for row in head if row.state == state]
        assert values == facts.weights.values["hidden"][place].tolist()
    table = next(row for row in spectral_rows(facts) if row.name == "hidden")
    assert {row.edge for row in head} == {table.edge}
    course = [row for row in training_rows(facts) if row.layer == "hidden"]
    assert [row.step for row in course] == [0, 10, 20]
    assert course[0].relative_rank == 1.0
    assert course[2].effective_rank == pytest.approx(table.effective_rank)


def test_an_imported_network_has_its_trained_part_alone(facts: Facts, tmp_path: Path) -> None:
    imported = untrained(facts)
    assert training_rows(imported) == []
    assert {row.state for row in weight_rows(imported)} == {"trained"}
    row = spectral_rows(imported)[0]
    assert row.effective_rank > 1
    assert row.effective_rank_initial is row.leading_grew is row.norm_ratio is None
    bare = replace(story_of(tmp_path), facts=imported)
    assert training_table(bare) is None
    drawn = {line.kind for card in weights_cards(bare) for line in card.plots[0].lines}
    assert drawn == {"spikes", "spectrum"}


def test_the_page_shows_the_layers_with_the_most_energy_in_spikes(tmp_path: Path) -> None:
    story = story_of(tmp_path, many_layers(20))
    rows, table = weight_rows(story.facts), spectral_rows(story.facts)
    assert len(rows) <= MOST_ROWS + 2 * 20 * FEWEST_POINTS
    cards = weights_cards(story)
    assert len(cards) == MOST
    held = {row.name: row.spike_energy or 0.0 for row in table}
    shown = {card.name for card in cards}
    assert min(held[name] for name in shown) >= max(held[n] for n in held if n not in shown)
    for card in cards:
        (plot,) = card.plots
        spikes = next(row.spikes for row in table if row.name == card.name)
        above = next(line for line in plot.lines if line.kind == "spikes")
        assert len({x for x, _ in above.points}) == spikes
        assert all(y > 1.0 for _, y in above.points), "spikes stand above the edge"
    course = training_table(story)
    assert course is not None and len(course.rows) == 20


def test_spectra_that_have_no_fit_are_not_drawn(facts: Facts, tmp_path: Path) -> None:
    """A layer of zeros, one of a single value, and nothing else."""
    shapes = {"zero": (9, 12), "one": (1, 5)}
    values = {"zero": torch.zeros(2, 9).double(), "one": torch.tensor([[2.0], [3.0]]).double()}
    weights = WeightSpectra((0, 5), None, shapes, values)
    analysis = diagnosed(facts, weights)
    bare = replace(facts, analysis=analysis, weights=weights, spectra=dict.fromkeys(shapes))  # type: ignore[arg-type]
    table = spectral_rows(bare)
    assert table[0].leading_ratio is None and table[1].leading_ratio == 1.5
    assert table[0].edge is table[1].edge is None
    story = replace(story_of(tmp_path), facts=bare)
    assert weights_cards(story) == []
    course = training_table(story)
    assert course is not None and [row.cells[0].text for row in course.rows] == ["zero", "one"]
