"""The three networks side by side: quality, size, and time with what it depends on."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.timings import Timings
from pipeline.lowrank.analysis.tables import number_text
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.tasks.measure import AGREEMENT
from pipeline.reporting.page.table import Cell, Column, Row, Table
from pipeline.reporting.run.story import Story
from pipeline.reporting.run.timings import expected_beside
from pipeline.reporting.run.verdict import speed
from pipeline.reporting.words import duration, human_bytes, human_count, times

# The three, as people call them.
NAMES = {"dense": "dense", "compressed": "compressed", "fine_tuned": "repaired"}


def networks_table(story: Story) -> Table:
    """Quality, sizes and latency of the three networks, a line each."""
    rows = [*_quality(story), *_sizes(story)]
    if story.timings is not None:
        rows.append(_latency(story.timings))
    columns = [Column(""), *(Column(name, number=True) for name in NAMES.values())]
    return Table("the networks", [*columns, Column("change", number=True)], rows, sortable=False)


def _quality(story: Story) -> list[Row]:
    networks = story.metrics.networks
    dense, last = story.metrics.dense.scores, story.metrics.fine_tuned.scores
    rows = []
    for measure in story.measures:
        cells = [Cell(measure.label)]
        for network in networks.values():
            # The dense network agrees with itself.
            itself = measure == AGREEMENT and network is story.metrics.dense
            found = None if itself else story.interval(measure, network)
            half = "" if found is None else f"± {number_text(100 * found.half)}"
            if found is not None and measure.style != "percent":
                half = f"{measure.show(found.low)}–{measure.show(found.high)}"
            cells.append(Cell(measure.show(network.scores[measure.name]), small=half))
        rows.append(Row([*cells, Cell(measure.change(measure.name, dense, last))]))
    return rows


def _sizes(story: Story) -> list[Row]:
    metrics = story.metrics
    sizes = [network.size for network in metrics.networks.values()]
    lines = (
        ("parameters", [human_count(s.params) for s in sizes], metrics.compression_ratio, "fewer"),
        ("MACs of an example", [human_count(s.macs) for s in sizes], metrics.macs_ratio, "fewer"),
        ("file", [human_bytes(s.file_bytes) for s in sizes], metrics.file_ratio, "smaller"),
    )
    more = {"fewer": "more", "smaller": "larger"}
    return [
        Row([Cell(label), *map(Cell, cells), Cell(times(ratio, word, more[word]))])
        for label, cells, ratio, word in lines
    ]


def _latency(timings: Timings) -> Row:
    cells = []
    for one in timings.networks.values():
        small = "busy" if one.busy else f"± {duration(one.iqr_ms / 2)}"
        cells.append(Cell(duration(one.latency_ms), small=small))
    ratio = max(timings.speedup, 1 / timings.speedup)
    change = Cell(speed(timings), small=f"± {ratio * timings.speedup_spread:.2f}")
    if timings.busy:
        change = Cell("busy machine", kind="doubtful")
    return Row([Cell(f"latency, {batch(timings)}"), *cells, change])


def batch(timings: Timings) -> str:
    """ "batch of 32 × 64 tokens"."""
    tokens = f" × {timings.tokens} tokens" if timings.tokens else ""
    return f"batch of {timings.batch_size}{tokens}"


def latency_notes(timings: Timings, plan: Plan) -> Sequence[str]:
    """Sentences on how the latency was measured: where, in which form; and what the plan
    expected, where latency was what it saved."""
    machine = timings.machine
    forms = timings.forms or {}
    told = [
        f"Latency is the median of a forward pass ({batch(timings)}), ± half of the interquartile "
        f"range; the networks took turns on {machine.gpu or machine.cpu} ({machine.cores} cores, "
        f"{machine.threads} thread{'s' if machine.threads != 1 else ''}), {machine.system}, "
        f"torch {machine.torch}."
    ]
    if {*forms.values()} > {"as stored"} or (forms and "as stored" not in forms.values()):
        said = "; ".join(f"{NAMES[name]} {form}" for name, form in forms.items())
        told.append(f"Each network counts in the form in which it is fastest: {said}.")
    if expected := expected_beside(plan, timings):
        told.append(f"{expected}.")
    return told
