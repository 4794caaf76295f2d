"""report.html: what it says of a run, and that a browser shows it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.evaluation.timings import Latency, Timings
from pipeline.lowrank.planning.timing.device import Device
from pipeline.lowrank.tasks.measure import ACCURACY
from pipeline.reporting.intervals import interval
from pipeline.reporting.run.page.contest import allocation_words
from pipeline.reporting.run.page.layers import block_of
from pipeline.reporting.run.page.training import course_of
from pipeline.reporting.run.page.write import page, write_page
from pipeline.reporting.run.story import Story, read_story
from pipeline.reporting.run.verdict import verdict
from pipeline.training.curve import Curve
from tests.reporting.browser import look, needs_chromium
from tests.reporting.report_case import curve, many_layers, write_run

EVIL = """</script><script>alert(1)</script><img src=x onerror="alert('2')">{{ 7 * 6 }}"""
TIMINGS = Timings(
    machine=Device("a processor", 2, "Linux", "2.6", 1),
    weights={"dense": "d" * 64, "compressed": "c" * 64, "fine_tuned": "f" * 64},
    batch_size=32,
    dense=Latency(8.0, 0.4),
    compressed=Latency(5.0, 0.2),
    fine_tuned=Latency(5.0, 0.2),
    speedup=1.6,
    forms={"dense": "as stored", "compressed": "multiplied out", "fine_tuned": "multiplied out"},
)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return replace(read_story(write_run(tmp_path_factory.mktemp("run"))), timings=TIMINGS)


class Text(HTMLParser):
    """What a reader sees, and which tags there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        assert not {"src", "srcset", "onclick"} & {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def test_the_verdict_has_size_speed_and_quality_with_their_spread(story: Story) -> None:
    metrics, data = story.metrics, story.data
    words = verdict(metrics, TIMINGS, data)
    assert words.startswith("4.00× smaller, 1.60× faster: accuracy 98.00 % ± 1.5, 97.50 % before. ")
    assert "+0.50 points on 360 test examples, too few to tell" in words
    assert "busy" in verdict(metrics, replace(TIMINGS, dense=Latency(8.0, 4.0)), data)
    worse = replace(metrics.fine_tuned, scores={"accuracy": 0.5, "loss": 1.0})
    lost = verdict(replace(metrics, fine_tuned=worse), None, data)
    assert lost.startswith("4.00× smaller: accuracy") and "outside of the 95" in lost


def test_the_interval_covers_the_share_as_often_as_it_says() -> None:
    """Wilson's interval of the fraction that is right, over all outcomes of a binomial."""
    for share in (0.5, 0.9, 0.98):
        covered = 0.0
        for right in range(201):
            found = interval(ACCURACY, {"accuracy": right / 200}, "classification", 200)
            assert found is not None
            chance = math.comb(200, right) * share**right * (1 - share) ** (200 - right)
            covered += chance * (found.low <= share <= found.high)
        assert 0.93 < covered < 0.98
    measured = interval(ACCURACY, {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.7},
                        "causal_lm", 9)  # fmt: skip
    assert measured is not None and (measured.low, measured.high) == (0.4, 0.7)
    assert interval(ACCURACY, {"accuracy": 0.5}, "segmentation", 9) is None


def test_every_plan_of_a_contest_has_words_of_its_own(story: Story) -> None:
    names = [f"{way}{corrected}" for way in ("absolute", "half uniform", "uniform")
             for corrected in ("", ", corrected")]  # fmt: skip
    told = {name: allocation_words(story.facts.plan, name) for name in names}
    assert len({*told.values()}) == len(names)
    # Weights that lead to the uniform plan do not keep the same fraction of every layer.
    assert [n for n, words in told.items() if "same fraction" in words] == ["uniform"]
    assert told["uniform, corrected"] == "errors weighed for the uniform plan, corrected"


def test_everything_that_is_known_is_on_the_page(story: Story) -> None:
    text = Text(page(story)).text
    for name, layer in story.facts.plan.layers.items():
        assert name in text and layer.why in text
    assert "0.94" in text and "2.4·10⁻⁴" in text  # the contest, as it was measured
    assert "errors relative to each layer" in text
    assert "The state after epoch 2 of 3 was kept" in text
    assert "multiplied out" in text and "a processor" in text
    assert "420" in text and "123,456" in text  # certificate and worst case
    assert "d" * 64 in text and "0" * 64 in text  # checksums
    assert "dvc repro" in text and "python -m pipeline export" in text


def test_what_there_was_none_of_is_not_drawn(story: Story) -> None:
    facts = replace(
        story.facts, fine_tune=Curve(), plan=replace(story.facts.plan, contest=()),
    )  # fmt: skip
    bare = page(replace(story, facts=facts, timings=None))
    assert 'id="repair"' not in bare and 'id="contest"' not in bare
    assert "Latency was not measured" in bare
    assert 'id="repair"' in page(story) and 'id="contest"' in page(story)


def test_a_training_that_gained_nothing_says_so() -> None:
    course = course_of(curve([0.98, 0.97], best=0))
    assert course is not None and course.kept_first
    assert "Step 0 was kept: none of the 1 epochs" in course.sentence


def test_blocks_are_what_a_number_ends() -> None:
    names = {"blocks.1.conv": "blocks.1", "head.0": "head", "lm_head": "lm_head",
             "stages.0.blocks.11.mlp.up": "stages.0.blocks.11"}  # fmt: skip
    assert {name: block_of(name) for name in names} == names


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    root = write_run(tmp_path, {EVIL: ((8, 6), "svd", [2]), "head": ((4, 8), "dense", [])})
    path = write_page(root)
    found = Text(path.read_text(encoding="utf-8"))
    assert EVIL in found.text
    assert "img" not in found.tags and found.tags.count("script") == 1


def test_a_deep_network_fits_a_page(tmp_path: Path) -> None:
    path = write_page(write_run(tmp_path, many_layers(20)))
    assert path.name == "report.html"
    assert 50_000 < path.stat().st_size < 1_500_000
    text = path.read_text(encoding="utf-8")
    assert "the 12 layers with the most parameters" in text
    assert text.count("<figure>") <= 2 * 12 + 6 + 5
    assert not re.search(r"https?://", re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL))


@needs_chromium
def test_a_browser_shows_it_wide_and_narrow_light_and_dark(story: Story, tmp_path: Path) -> None:
    """In MLflow's frame: no errors, nothing wider than the page, headings sort, links scroll."""
    script = """
      const tables = document.querySelectorAll("#layers table.sortable");
      const layers = tables[tables.length - 1];
      const heads = [...layers.tHead.rows[0].cells];
      const place = heads.findIndex((head) => head.textContent.trim() === "parameters");
      heads[place].querySelector("button").click();
      const keys = [...layers.tBodies[0].rows].map((row) => Number(row.cells[place].dataset.key));
      document.querySelector('a[href="#bounds"]').click();
      return { keys, sort: heads[place].getAttribute("aria-sort"), at: document.activeElement.id };
    """
    text = page(story)
    seen = look(tmp_path, {"wide": (text, 1280, script), "narrow": (text, 390, script)}, dark=False)
    for one in seen.values():
        assert one.errors == [] and one.wide == 0
        assert one.value["keys"] == sorted(row.params for row in story.layers)
        assert (one.value["sort"], one.value["at"]) == ("ascending", "bounds")
        assert one.paper == "rgb(255, 255, 255)"
    night = look(tmp_path, {"dark": (text, 390, "return 0;")}, dark=True)["dark"]
    assert night.errors == [] and night.paper == "rgb(20, 23, 27)"
