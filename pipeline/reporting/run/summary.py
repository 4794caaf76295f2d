"""The summary in the terminal, from reports/ alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.timings import Timings
from pipeline.lowrank.analysis.tables import ranks_text
from pipeline.lowrank.factorize.report import RefitDivergence
from pipeline.lowrank.planning.files import load_plan
from pipeline.reporting.run.fitting import named_table, plain_texts
from pipeline.reporting.run.layers import LayerRow, read_layers
from pipeline.reporting.run.measures import measures
from pipeline.reporting.run.metrics import FILE as METRICS
from pipeline.reporting.run.metrics import Metrics, OutputError, SpectraFigures, read_metrics
from pipeline.reporting.run.timings import expected_beside, find_timings
from pipeline.reporting.words import human_bytes, human_count, percent

if TYPE_CHECKING:
    from pipeline.lowrank.adapters.extract import Extraction

MOST_LAYERS = 16
ABSENT = "—"
_MEASURE = "dvc repro --force --single-item evaluate"
# Numbers from here on are written short, so that the tables fit 80 characters.
_MOST_DIGITS, _MOST_DIGITS_A_LAYER = 10_000_000, 1_000_000


def print_summary(root: Path, console: Console | None = None) -> None:
    """Prints root/reports (and root's stored timings) as two tables.

    Nothing is computed or written. Without a terminal the text is plain: no colours, no box
    characters. Raises LowRankError when the reports are missing.
    """
    console = console or Console(highlight=False)
    metrics = read_metrics(root / "reports" / METRICS)
    layers = read_layers(root / "reports")
    timings = find_timings(root)
    console.print()
    _show(console, networks_table(metrics, timings, console), "metrics.json")
    if timings is None:
        _say(console, f"Latency was not measured on this machine: run {_MEASURE}")
    else:
        told = (busy_sentence(timings), forms_sentence(timings), _expected(root, timings))
        for sentence in filter(None, told):
            _say(console, sentence)
    console.print()
    _show(console, layers_table(layers, console), "layers.csv")
    if len(layers) > MOST_LAYERS:
        _say(console, f"… and {len(layers) - MOST_LAYERS} more in reports/layers.csv")
    console.print()
    for sentence in (
        *spectra_sentences(metrics.spectra),
        *refit_lines(metrics),
        *output_error_lines(metrics.output_error),
    ):
        _say(console, sentence)
    console.print()


def busy_sentence(timings: Timings) -> str | None:
    """Says that other work spoilt the latencies, and how they are measured again."""
    if not timings.busy:
        return None
    return f"Busy machine; measure again: {_MEASURE}"


def _expected(root: Path, timings: Timings) -> str | None:
    plan = root / "out/plan.json"
    return expected_beside(load_plan(plan), timings) if plan.is_file() else None


def forms_sentence(timings: Timings) -> str | None:
    """Says in which form the networks are the fastest, since that latency is shown; None where it
    is the stored form, or where none was noted (stores of older versions)."""
    forms = timings.forms
    if forms is None or {*forms.values()} == {"as stored"}:
        return None
    return f"Fastest forms: dense {forms['dense']}; fine-tuned {forms['fine_tuned']}"


def refit_lines(metrics: Metrics) -> list[str]:
    """Lines on the changes that a refit, new statistics of BatchNorm and trained blocks made on
    held-out data; [] without any."""
    lines = []
    if refit := metrics.refit:
        lines.append(f"Refit: {_closer(refit.divergence)} ({_taken(refit.kept)})")
    if norms := metrics.batchnorm:
        lines.append(f"BatchNorm again: {_closer(norms.divergence)} ({_taken(norms.kept)})")
    if refine := metrics.refine:
        kept = f"{refine.kept} of {refine.trained} kept"
        lines.append(f"Trained blocks: {_closer(refine.divergence)} ({kept})")
    if metrics.batchnorm or metrics.refine:
        lines.append("Errors of layers and bounds are those before that")
    return lines


def _closer(divergence: RefitDivergence) -> str:
    before, after = divergence.without, divergence.refit
    return f"divergence from the dense network {before:.4g} → {after:.4g} on held-out data"


def _taken(kept: bool) -> str:
    return "kept" if kept else "not kept, since it is no closer"


def networks_table(
    metrics: Metrics, timings: Timings | None, console: Console
) -> tuple[Table, list[str]]:
    """(a table of the dense, the compressed and the fine-tuned network side by side, with the
    changes; the columns that the console has no room for)."""
    lines: list[tuple[str, str, Callable[[Any], str], str]]
    dense, last = metrics.dense.scores, metrics.fine_tuned.scores
    known = measures(dense, metrics.measures)
    lines = [(m.label, m.name, m.show, m.change(m.name, dense, last)) for m in known]
    lines += [
        ("parameters", "params", _count, f"{metrics.compression_ratio:.2f}× fewer"),
        ("MACs", "macs", _count, f"{metrics.macs_ratio:.2f}× fewer"),
        ("file size", "file_bytes", human_bytes, f"{metrics.file_ratio:.2f}× smaller"),
    ]
    rows = [
        [label, *(show(one.figures()[key]) for one in metrics.networks.values()), change]
        for label, key, show, change in lines
    ]
    columns = ["", "dense", "compressed", "fine-tuned", "change"]
    return named_table(columns, [*rows, _latency_cells(timings)], console, ["compressed"])


def layers_table(layers: Sequence[LayerRow], console: Console) -> tuple[Table, list[str]]:
    """(a table of the layers with the most parameters, in the network's order; the columns that
    the console has no room for)."""
    columns = ["layer", "method", "ranks", "parameters", "kept", "error", "bound"]
    ordered = sorted(range(len(layers)), key=lambda place: -layers[place].dense_params)
    rows = [_layer_cells(layers[place]) for place in sorted(ordered[:MOST_LAYERS])]
    return named_table(columns, rows, console, ["bound", "kept", "method"])


def spectra_sentences(spectra: SpectraFigures) -> list[str]:
    """Up to three lines of at most 80 characters on the spectra of the weights; those on training
    are left out where the initial weights are not known."""
    sentences = [
        f"Weights: effective rank {percent(spectra.effective_rank_fraction)} of the full one, "
        f"{spectra.spikes} spikes above noise"
    ]
    grew, shrank, turned = (
        claim and f"{claim.holds} of {claim.of}"
        for claim in (spectra.leading_grew, spectra.trailing_shrank, spectra.rank_rose_then_fell)
    )
    if grew:
        sentences += [
            f"Training: the leading singular values grew in {grew} layers,",
            f"the trailing ones shrank in {shrank}, effective rank rose then fell in {turned}",
        ]
    return sentences


def print_adapter(extraction: Extraction, folder: str, console: Console) -> None:
    """Prints the layers of an extracted adapter, and the tensors that are not in it."""
    rows = [
        [
            name,
            str(layer.rank),
            f"{layer.relative_error:.4f}",
            percent(layer.params / layer.dense_params),
            f"{layer.change:.4f}",
        ]
        for name, layer in extraction.layers.items()
    ]
    table, _ = named_table(["layer", "rank", "error", "kept", "change"], rows, console)
    console.print(table)
    layers = extraction.layers.values()
    params, dense = sum(x.params for x in layers), sum(x.dense_params for x in layers)
    share = percent(params / dense)
    _say(console, f"{folder}: {_count(params)} parameters, {share} of the weights they change")
    for reason in dict.fromkeys(extraction.left_out.values()):
        keys = [key for key, why in extraction.left_out.items() if why == reason]
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        _say(console, f"changed, but left out as {reason}: {', '.join(keys[:3])}{more}")


def output_error_lines(error: OutputError) -> list[str]:
    """At most two lines on the certified error of the compressed network's output."""
    measured = f"Error at the output before fine-tuning: at most {error.measured:.3g} measured"
    if not error.certified:
        return [f"{measured}; not certified (why: out/compressed/bounds.json)"]
    return [
        f"{measured},",
        f"{error.certificate:.3g} certified on these examples, "
        f"{error.worst_case:.3g} in the worst case",
    ]


def _layer_cells(row: LayerRow) -> list[str]:
    show = _count if row.dense_params < _MOST_DIGITS_A_LAYER else human_count
    name = row.name or "(root)"
    if row.method == "dense":
        return [name, "dense", ABSENT, show(row.dense_params), "100 %", ABSENT, ABSENT]
    return [
        name,
        row.method,
        ranks_text(row.ranks),
        f"{show(row.dense_params)} → {show(row.params)}",
        percent(row.kept),
        f"{row.measured_relative_error:.4f}",
        f"{row.upper_bound:.4f}",
    ]


def _latency_cells(timings: Timings | None) -> list[str]:
    if timings is None:
        return ["latency", ABSENT, ABSENT, ABSENT, ABSENT]
    cells = [_duration(network.latency_ms) for network in timings.networks.values()]
    tokens = f" × {timings.tokens}" if timings.tokens else ""
    return [f"latency, batch of {timings.batch_size}{tokens}", *cells, _speedup(timings)]


def _speedup(timings: Timings) -> str:
    """How much faster, ± its spread."""
    if timings.busy:
        return "busy machine"
    slower = timings.speedup < 1
    ratio = 1 / timings.speedup if slower else timings.speedup
    return f"{ratio:.2f} ± {timings.speedup_spread * ratio:.2f}× {'slower' if slower else 'faster'}"


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:.2f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def _show(console: Console, made: tuple[Table, list[str]], file: str) -> None:
    table, without = made
    console.print(table)
    if without:
        _say(console, f"No room for {' and '.join(without)}: a wider terminal, or reports/{file}")


def _say(console: Console, sentence: str) -> None:
    console.print(*plain_texts(console, sentence))


def _count(value: int) -> str:
    return f"{value:,}" if value < _MOST_DIGITS else human_count(value)
