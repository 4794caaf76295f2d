"""python -m benchmarks.zoo.widths: the inner dimensions of every network, each narrowed to half its
width; writes docs/widths.md, docs/widths.json, and the column of it in docs/coverage.md."""

from __future__ import annotations

import argparse
import copy
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from torch import nn

from benchmarks.zoo import vision
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.pages import NetworkWidths, WidthsRecord, write_widths
from benchmarks.zoo.registry import chosen
from pipeline import lowrank as lr
from pipeline.lowrank.network.costs import network_totals
from pipeline.lowrank.planning.narrowing import NARROWED, Narrowing

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "widths.md"
_INTRODUCTION = """\
# Inner dimensions
Which [inner dimensions](concepts.md#inner-dimension) are found and proven in tiny random networks \
of many architectures: `python -m benchmarks.zoo.widths` makes this page. *Inside* is the share of \
the parameters in the layers of these dimensions, *at half* what is left of the parameters where \
each of them has half of its width. *Checks*: the narrowed network runs an example, also where \
every other dimension keeps all of its channels but one (of experts but eight), costs what the \
plan expects, and is saved and loaded to the bit. Patterns of names stand for blocks that are \
alike; what is left is no inner dimension, or shares a layer with one.

| network | dimensions | inside | at half | checks | layers that read them | left, and why |
|---|---|---|---|---|---|---|
"""


def row(entry: Entry) -> tuple[str, NetworkWidths]:
    """The line of one network in the table, and what it says in numbers."""
    net, example = entry.build(), entry.batches(1, 1)[0]
    analysis = lr.analyze(net, example, chosen=lr.AnalysisOptions(metric="weight"))
    plan = lr.plan_from(net, analysis, lr.Budget(params=1.0), methods=[lr.Interpolative()])
    assert plan.narrowing is not None
    inner, small = plan.narrowing, copy.deepcopy(net)
    halved = _planned(inner, [one.half for one in inner.found.values()])
    done = lr.apply_(small, plan.with_layers(**halved))
    totals = network_totals(small, example)
    inside = sum(analysis.targets[name].params for name in halved)
    same = totals.params == done.totals.params and (entry.routed or totals == done.totals)
    sound = same and _comes_back(entry, small) and _runs_uneven(net, plan)
    checks = "all" if done.ran and sound else "failed"
    whole = analysis.totals.params
    told = NetworkWidths(
        len(inner.found), round(inside / whole, 4), round(totals.params / whole, 4)
    )
    return (
        f"| {entry.name} | {told.dimensions} | {told.inside:.0%} | {told.at_half:.0%} | "
        f"{checks} | {_alike(inner)} | {_left(inner)} |"
    ), told


def _runs_uneven(net: nn.Module, plan: lr.Plan) -> bool:
    """Whether it runs where every other dimension keeps all channels but one, of experts a step."""
    assert plan.narrowing is not None
    found = plan.narrowing.found.values()
    widths = [d.width - d.step if place % 2 else d.half for place, d in enumerate(found)]
    changed = _planned(plan.narrowing, widths)
    return lr.apply_(copy.deepcopy(net), plan.with_layers(**changed)).ran


def _planned(inner: Narrowing, widths: Sequence[int]) -> dict[str, lr.PlannedLayer]:
    """The layers of the dimensions, each of which has one of the widths."""
    return {
        member.layer: lr.PlannedLayer(NARROWED, (max(1, width),))
        for one, width in zip(inner.found.values(), widths, strict=True)
        for member in one.layers
    }


def _comes_back(entry: Entry, small: nn.Module) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        lr.save(small, folder)
        again = lr.load_(entry.build(), folder).state_dict()
    return all(torch.equal(value, again[key]) for key, value in small.state_dict().items())


def _alike(inner: Narrowing) -> str:
    return ", ".join(f"{n}× `{name}`" for name, n in Counter(map(_pattern, inner.found)).items())


def _left(inner: Narrowing, most: int = 3) -> str:
    reasons = {_pattern(name): why for name, why in inner.left.items() if "shares" not in why}
    shown = [f"`{name}`: {why.split(' (')[0]}" for name, why in list(reasons.items())[:most]]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; {more} more" if more else "")


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.widths", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="shell-style patterns of names")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    vision.import_vision()
    rows: list[str] = []
    found: dict[str, NetworkWidths] = {}
    for entry in chosen(given.only):
        try:
            line, found[entry.name] = row(entry)
            rows.append(line)
        except Exception as error:  # whatever other people's code raises
            why = " ".join(str(error).split())[:100]
            rows.append(f"| {entry.name} | | | | failed | | {type(error).__name__}: {why} |")
        print(rows[-1], flush=True)
    if not given.only:
        (DOCS / PAGE).write_text(_INTRODUCTION + "\n".join(rows) + "\n")
        write_widths(DOCS, WidthsRecord(found))


if __name__ == "__main__":
    main()
