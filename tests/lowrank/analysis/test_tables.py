"""What print shows fits a terminal; what a notebook shows is escaped; reprs are one short line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.lowrank import Analysis, Budget, Compression, Plan, analyze, apply_, plan
from pipeline.lowrank.analysis.tables import WIDTH, Table, compact, shortened

LONG = "model.decoder.layers.17.encoder_attention.self.query_key_value_projection"
ODD = "<b>&layer"


def network() -> nn.Module:
    """Names of 75 characters, one that HTML would take for a tag, layers that are no targets."""
    torch.manual_seed(0)
    net = nn.Sequential()
    inner: nn.Module = net
    for part in LONG.split("."):
        inner.add_module(part, nn.Sequential())
        inner = inner.get_submodule(part)
    inner.append(nn.Linear(300, 400))
    inner.append(nn.Unflatten(1, (16, 5, 5)))
    inner.append(nn.utils.weight_norm(nn.ConvTranspose2d(16, 16, 3)))
    inner.append(nn.Conv2d(16, 24, 3))
    net.append(nn.Flatten())
    net.add_module(ODD, nn.Linear(600, 200))
    return net


@pytest.fixture(scope="module", params=["weight", "fisher"])
def shown(request: pytest.FixtureRequest) -> tuple[Analysis, Plan, Compression]:
    net = network()
    batches = list(torch.randn(64, 300).split(16))
    if request.param == "weight":
        chosen = plan(net, Budget(params=0.2), batches[0][:1])
        analysis = analyze(net, batches[0][:1])
    else:
        chosen = plan(net, Budget(params=0.2), calibration=batches)
        analysis = analyze(net, calibration=batches)
    return analysis, chosen, apply_(net, chosen)


def test_tables_fit_a_terminal_and_name_every_layer(
    shown: tuple[Analysis, Plan, Compression],
) -> None:
    for value in shown:
        text = str(value)
        lines = text.splitlines()
        assert max(map(len, lines)) <= WIDTH == 80
        assert any(line.startswith(f"{ODD} ") for line in lines)
        assert sum(line.startswith("model.") and "…" in line for line in lines) >= 1
        assert "parameters" in text
    analysis, chosen, done = map(str, shown)
    assert "ConvTranspose2d has no factorized form" in analysis.replace("\n", " ")
    assert "conv2d" in analysis and "24×16×3×3" in analysis and "stable rank" in analysis
    planned = shown[1].expected.planned
    assert f"{planned.params:,}" in chosen and f"{planned.params:,}" in done
    assert ("nats" in chosen) == (shown[0].metric == "fisher") == ("divergence" in chosen)


def test_reprs_are_one_short_line(shown: tuple[Analysis, Plan, Compression]) -> None:
    for value in shown:
        assert type(value).__name__ in repr(value)
        assert "\n" not in repr(value) and len(repr(value)) <= WIDTH


def test_a_notebook_gets_escaped_html(shown: tuple[Analysis, Plan, Compression]) -> None:
    rows = [len(shown[0].targets), len(shown[1].layers), len(shown[2].layers)]
    for value, count in zip(shown, rows, strict=True):
        html = value._repr_html_()
        assert ODD not in html and "&lt;b&gt;&amp;layer" in html
        assert html.count("<tr>") == html.count("</tr>") == 1 + count > 2
        assert LONG.rpartition(".")[0] in html, "there is room for whole names"


def test_an_edited_layer_says_so(shown: tuple[Analysis, Plan, Compression]) -> None:
    chosen = shown[1]
    name = next(iter(chosen.factorized))
    layer = chosen.layers[name]
    other = type(layer)(layer.method, tuple(1 for _ in layer.ranks))
    lines = str(chosen.with_layers(**{name: other})).splitlines()
    assert sum(line.count("edited") for line in lines) in (3, 4)
    assert max(map(len, lines)) <= WIDTH


def test_words_that_are_too_long_are_shortened() -> None:
    table = Table("a title", ["layer", "n"], [["x" * 200, "1"]], notes=["y" * 200])
    assert [len(line) for line in table.text().splitlines()] == [7, 80, 80, 80]
    assert shortened("abcdefghij", 5) == "ab…ij"
    counts = (0, 99_999, 100_000, 999_949, 999_950, 134_217_728, 10**18)
    assert [compact(n) for n in counts] == [
        "0",
        "99,999",
        "100.0k",
        "999.9k",
        "1.0M",
        "134.2M",
        "1000.0P",
    ]
