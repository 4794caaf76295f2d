"""The summary in the terminal, read back as text."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.evaluation.timings import Latency, Timings
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.planning.timing.device import Device
from pipeline.lowrank.typed import save_record
from pipeline.reporting.run import summary as tables
from pipeline.reporting.run.facts import read_facts
from pipeline.reporting.run.layers import LayerTable, layer_table, read_layers
from pipeline.reporting.run.metrics import (
    Metrics,
    Size,
    make_metrics,
    output_error,
    read_metrics,
)
from pipeline.reporting.run.spectral import spectral_figures
from pipeline.reporting.run.timings import quiet_latency_ms
from pipeline.reporting.words import human_bytes, human_count
from tests.reporting.report_case import (
    NETWORKS,
    SMALL,
    Layers,
    bounds,
    many_layers,
    write_case,
)

TIMINGS = Timings(
    Device("abacus", 2, "Linux", "2", threads=1),
    weights={},
    batch_size=32,
    dense=Latency(12.345, 0.1),
    compressed=Latency(6.5, 0.1),
    fine_tuned=Latency(6.1725, 0.1),
    speedup=2.0,
)


def _reports(root: Path, layers: Layers = SMALL) -> Path:
    write_case(root / "out", layers)
    facts = read_facts(root / "out")
    _write_metrics(root, make_metrics(facts, NETWORKS, spectral_figures(facts)))
    save_record(root / "reports/layers.json", layer_table(facts))
    return root


def _write_metrics(root: Path, metrics: Metrics) -> None:
    (root / "reports").mkdir(exist_ok=True)
    (root / "reports/metrics.json").write_text(json.dumps(metrics.to_json()))


def _summary(root: Path, width: int, *, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, highlight=False)
    tables.print_summary(root, console)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def _cells(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip().startswith(label))
    return re.split(r"\s{2,}", line.strip())


def _layer(text: str, name: str) -> list[str]:
    """Cells of a layer's row, whose columns may stand one blank apart."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return line.replace(" → ", "→").replace(" %", "%").split()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("terminal", [False, True])
def test_the_right_numbers_at_every_width(tmp_path: Path, width: int, terminal: bool) -> None:
    text = _summary(_reports(tmp_path), width, terminal=terminal)
    assert _cells(text, "accuracy") == ["accuracy", "97.50 %", "90.00 %", "98.00 %", "+0.50 points"]
    assert _cells(text, "loss") == ["loss", "0.0810", "0.3450", "0.0705", "−0.0105"]
    assert _cells(text, "parameters") == ["parameters", "76,842", "19,210", "19,210", "4.00× fewer"]
    assert _cells(text, "MACs") == ["MACs", "1,234,560", "411,520", "411,520", "3.00× fewer"]
    assert _cells(text, "file size")[1:] == ["310 kB", "77.5 kB", "77.5 kB", "4.00× smaller"]
    row = _layer(text, "blocks.0.conv2")
    assert row[:5] == ["blocks.0.conv2", "tucker2", "12×10", "9,216→1,784", "19%"]
    measured = read_facts(tmp_path / "out").compression.layers["blocks.0.conv2"]
    assert float(row[5]) == pytest.approx(measured.measured_relative_error, abs=5e-5)
    assert float(row[6]) == pytest.approx(measured.upper_bound, abs=5e-5)
    assert _layer(text, "head")[1:5] == ["dense", "—", "640", "100%"]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_many_layers_with_long_names_are_shortened_and_limited(tmp_path: Path) -> None:
    """In the middle: both ends tell layers apart."""
    text = _summary(_reports(tmp_path, many_layers(60)), 80)
    assert "… and 44 more in reports/layers.csv" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("→") == tables.MOST_LAYERS
    names = [line.split()[0] for line in text.splitlines() if "→" in line]
    assert all(re.fullmatch(r"\S{8,}….*projection\d+", name) for name in names), names
    assert len(set(names)) == tables.MOST_LAYERS
    assert any(name.endswith("projection57") for name in names)


def test_a_narrow_terminal_has_all_that_decides(tmp_path: Path) -> None:
    """What has no room is told; nothing is cut."""
    for layers, terminal in product((SMALL, many_layers(60)), (False, True)):
        root = tmp_path / f"{len(layers)} {terminal}"
        root.mkdir()
        text = _summary(_reports(root, layers), 60, terminal=terminal)
        assert max(map(len, text.splitlines())) <= 60
        assert _cells(text, "parameters")[-2:] == ["19,210", "4.00× fewer"]
        for column in ("compressed", "bound", "kept"):
            shown = re.search(rf"^ *(layer|dense) .*{column}", text, re.MULTILINE)
            told = re.search(rf"No room for .*{column}", text)
            assert bool(shown) != bool(told), column


def test_large_networks_fit_too(tmp_path: Path) -> None:
    root = _reports(tmp_path)
    metrics = read_metrics(root / "reports/metrics.json")
    sizes = [Size(134_515_008 // n, 135 * 10**12 // n, 538_060_032 // n) for n in (1, 4)]
    large, small = (replace(metrics.dense, size=size) for size in sizes)
    _write_metrics(root, replace(metrics, dense=large, compressed=small, fine_tuned=small))
    layers = [
        replace(row, dense_params=16_777_216, params=4_194_304)
        if row.name == "blocks.10.conv1"
        else row
        for row in read_layers(root / "reports")
    ]
    save_record(root / "reports/layers.json", LayerTable(tuple(layers)))
    text = _summary(root, 80)
    assert _cells(text, "parameters")[1:4] == ["135 M", "33.6 M", "33.6 M"]
    assert _cells(text, "MACs")[1:4] == ["135 T", "33.8 T", "33.8 T"]
    assert _layer(text, "blocks.10.conv1")[3:6] == ["16.8", "M→4.19", "M"]
    assert "…" not in text


def test_latency_with_and_without_timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _reports(tmp_path)
    monkeypatch.setattr(tables, "find_timings", lambda root: None)
    without = _summary(root, 80)
    assert _cells(without, "latency") == ["latency", "—", "—", "—", "—"]
    assert "Latency was not measured on this machine" in without
    monkeypatch.setattr(tables, "find_timings", lambda root: TIMINGS)
    found = _summary(root, 80)
    expected = ["latency, batch of 32", "12.35 ms", "6.50 ms", "6.17 ms", "2.00 ± 0.02× faster"]
    assert _cells(found, "latency") == expected
    assert "not measured" not in found
    assert "busy" not in found


def test_latencies_of_a_busy_machine_are_no_speedup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = replace(TIMINGS, fine_tuned=Latency(227.0, 1.0, own_share=0.3))
    root = _reports(tmp_path)
    monkeypatch.setattr(tables, "find_timings", lambda root: spoilt)
    text = _summary(root, 80)
    assert _cells(text, "latency")[-1] == "busy machine"
    assert "measure again: dvc repro --force --single-item evaluate" in text
    with pytest.raises(LowRankError, match="the machine was busy"):
        quiet_latency_ms(spoilt)
    assert quiet_latency_ms(TIMINGS) == 6.1725


def test_what_is_certified_of_the_output(tmp_path: Path) -> None:
    root = _reports(tmp_path)
    text = _summary(root, 80)
    assert "Error at the output before fine-tuning: at most 3.5 measured,\n" in text
    assert "420 certified on these examples, 1.23e+05 in the worst case" in text
    error = output_error(bounds(["a"], reason="attention"))
    _write_metrics(root, replace(read_metrics(root / "reports/metrics.json"), output_error=error))
    assert "at most 3.5 measured; not certified (why: out/" in _summary(root, 120)


def test_a_slower_network_is_called_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(TIMINGS, fine_tuned=Latency(24.69, 0.1), speedup=0.5)
    monkeypatch.setattr(tables, "find_timings", lambda root: slow)
    assert _cells(_summary(_reports(tmp_path), 80), "latency")[-1] == "2.00 ± 0.01× slower"


def test_forms_that_are_not_the_stored_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _reports(tmp_path)
    for dense, said in (("as stored", False), ("channels last", True)):
        forms = {"dense": dense, "compressed": "as stored", "fine_tuned": "as stored"}
        monkeypatch.setattr(tables, "find_timings", lambda root, f=forms: replace(TIMINGS, forms=f))
        sentence = "Fastest forms: dense channels last; fine-tuned as stored"
        assert (sentence in _summary(root, 90)) == said


def test_plain_text_without_a_terminal(tmp_path: Path) -> None:
    root = _reports(tmp_path)
    assert "─" not in _summary(root, 80)
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    tables.print_summary(root, Console(file=out, width=80, highlight=False))
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert "4.00x fewer" in text
    assert "9,216 > 1,784" in text


def test_missing_reports_are_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LowRankError, match=r"metrics\.json.*run dvc repro"):
        tables.print_summary(tmp_path)
    root = _reports(tmp_path)
    (root / "reports/layers.json").unlink()
    with pytest.raises(LowRankError, match=r"layers\.json.*run dvc repro"):
        tables.print_summary(root)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (76_842, "76.8 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (1_234_560, "1.23 M"),
        (10**16, "10 P"),
    ],
)
def test_human_count(value: int, words: str) -> None:
    assert human_count(value) == words


def test_human_bytes() -> None:
    assert human_bytes(310_000) == "310 kB"
    assert human_bytes(12) == "12 B"
