"""report.html: all that a run found out, as one page."""

from __future__ import annotations

from pathlib import Path

from pipeline.reporting.page.render import render
from pipeline.reporting.run.metrics import FILE as METRICS
from pipeline.reporting.run.page.bounds import errors_table, network_table
from pipeline.reporting.run.page.contest import chosen_of, contest_table
from pipeline.reporting.run.page.layers import blocks_table, layers_table
from pipeline.reporting.run.page.networks import latency_notes, networks_table
from pipeline.reporting.run.page.spectra import MOST, spectra_cards, widths_table
from pipeline.reporting.run.page.training import course_of, descent_plot
from pipeline.reporting.run.page.weights import training_table, weights_cards
from pipeline.reporting.run.story import Story, read_story
from pipeline.reporting.run.verdict import detail, headline

PAGE = "report.html"


def is_run(folder: Path) -> bool:
    """Whether the folder is the workspace of a run that was evaluated."""
    return (folder / "reports" / METRICS).is_file()


def write_page(root: Path) -> Path:
    """Writes reports/report.html of the workspace of a run that is done; returns its path. It is
    no output of a stage: it holds timings. Raises LowRankError where a result is missing."""
    path = root / "reports" / PAGE
    path.write_text(page(read_story(root)), encoding="utf-8")
    return path


def page(story: Story) -> str:
    """The whole page."""
    plan = story.facts.plan
    return render(
        "run.html",
        story=story,
        headline=headline(story.metrics, story.timings, story.data),
        detail=detail(story.metrics, story.data),
        networks=networks_table(story),
        latency=latency_notes(story.timings, plan) if story.timings else [],
        contest=contest_table(plan),
        chosen=chosen_of(plan),
        blocks=blocks_table(story.layers),
        layers=layers_table(story),
        cards=spectra_cards(story),
        most_cards=MOST,
        widths=widths_table(story),
        errors=errors_table(story),
        network=network_table(story),
        weights=weights_cards(story),
        trained=training_table(story),
        spectra=story.metrics.spectra,
        repair=course_of(story.facts.fine_tune),
        baseline=course_of(story.facts.baseline),
        descent=descent_plot(story.facts.fine_tune),
        skipped=plan.skipped,
    )
