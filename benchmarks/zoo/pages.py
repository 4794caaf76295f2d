"""coverage.json, and coverage.md for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.zoo.coverage import Coverage
from pipeline.lowrank.typed import load_record, save_record

RECORD, PAGE, WIDTHS = "coverage.json", "coverage.md", "widths.json"
ENOUGH = 0.95
_NAMED = 3  # weights that are named in the table; coverage.json has all of them

_INTRODUCTION = """\
# Coverage
Tiny random networks of many architectures, on which everything is tried: `python -m \
benchmarks.zoo` makes this page and coverage.json beside it, which names every weight that is left.

In each of the metrics `weight`, `input` and `fisher` a plan halves the rank of every layer; the \
network is compressed and runs in eval mode, is saved and loaded to the bit, trains (forward and \
backward, gradients in all factors), and at full rank gives the dense network's outputs.

*Reached* is the share of the weights that are targets. Weights are the parameters with two \
dimensions longer than 1 or more, heads and embeddings included; norms and biases are vectors and \
not counted, nor are weights that several modules hold (a head tied to its embedding). \
*Factorized* is the share in layers that the plan with half of every rank factorizes: a depthwise \
kernel, for example, is a target that no rank makes smaller. *Narrower* is the share of \
the parameters in layers of inner dimensions, and what is left of all parameters where each of \
these has half of its width ([widths](widths.md) has their names).
"""


@dataclass(frozen=True)
class NetworkRecord:
    """What came of one network.

    coverage: None where no plan was made in any metric.
    failed: {metric: {check: what went wrong, in one line}}.
    """

    coverage: Coverage | None
    failed: Mapping[str, Mapping[str, str]]

    @property
    def is_whole(self) -> bool:
        return not any(self.failed.values())


@dataclass(frozen=True)
class ZooRecord:
    """{network: what came of it}."""

    networks: Mapping[str, NetworkRecord]


@dataclass(frozen=True)
class NetworkWidths:
    """The inner dimensions of one network, as fractions of its parameters: those in their layers,
    and all that are left at half of each width."""

    dimensions: int
    inside: float
    at_half: float


@dataclass(frozen=True)
class WidthsRecord:
    """{network: its inner dimensions}, without those that failed."""

    networks: Mapping[str, NetworkWidths]


def write(folder: Path, record: ZooRecord) -> None:
    """Writes coverage.json and coverage.md into a folder that exists."""
    save_record(folder / RECORD, record)
    (folder / PAGE).write_text(page(record, read_widths(folder)))


def write_widths(folder: Path, widths: WidthsRecord) -> None:
    """Writes widths.json, and coverage.md anew with what it says."""
    save_record(folder / WIDTHS, widths)
    (folder / PAGE).write_text(page(read(folder), widths))


def read_widths(folder: Path) -> WidthsRecord:
    """The widths in a folder, of no network where it has none."""
    if not (folder / WIDTHS).exists():
        return WidthsRecord({})
    return load_record(folder / WIDTHS, WidthsRecord, "python -m benchmarks.zoo.widths")


def read(folder: Path) -> ZooRecord:
    """The record in a folder that `write` filled."""
    return load_record(folder / RECORD, ZooRecord, "python -m benchmarks.zoo")


def page(record: ZooRecord, widths: WidthsRecord) -> str:
    """The text of coverage.md."""
    families: dict[str, dict[str, NetworkRecord]] = {}
    for name, one in record.networks.items():
        family, _, architecture = name.partition("/")
        families.setdefault(family, {})[architecture] = one
    parts = [_INTRODUCTION, f"{_summary(record.networks)}\n"]
    for family, networks in families.items():
        parts += [f"## {family}\n{_summary(networks)}\n", *_table(family, networks, widths), ""]
    return "\n".join(parts).rstrip() + "\n"


def _summary(networks: Mapping[str, NetworkRecord]) -> str:
    known = [one.coverage.reached for one in networks.values() if one.coverage]
    enough = sum(share >= ENOUGH for share in known)
    whole = sum(one.is_whole for one in networks.values())
    return (
        f"{len(networks)} networks; in {enough} of them {ENOUGH:.0%} of the weights are reached or "
        f"more; {whole} pass every check in every metric."
    )


def _table(
    family: str, networks: Mapping[str, NetworkRecord], widths: WidthsRecord
) -> Iterator[str]:
    yield "| network | parameters | reached | factorized | narrower | left, and why | checks |"
    yield "|---|---|---|---|---|---|---|"
    for name, one in networks.items():
        narrower = widths.networks.get(f"{family}/{name}")
        yield f"| {name} | {' | '.join(_cells(one, narrower))} |"


def _cells(one: NetworkRecord, narrower: NetworkWidths | None) -> list[str]:
    if one.coverage is None:
        return ["", "", "", "", "", _status(one)]
    found = one.coverage
    return [
        f"{found.params:,}",
        f"{found.reached:.1%}",
        f"{found.factorized:.1%}",
        f"{narrower.inside:.0%} → {narrower.at_half:.0%}" if narrower else "",
        _left(found),
        _status(one),
    ]


def _left(found: Coverage) -> str:
    named = [f"{w.name} {w.share:.1%}: {_cell(w.reason)}" for w in found.left[:_NAMED]]
    rest = found.left[_NAMED:]
    if rest:
        named.append(f"and {len(rest)} more, {sum(w.share for w in rest):.1%}")
    return "; ".join(named)


def _status(one: NetworkRecord) -> str:
    lines = [
        f"{metric}: {check}: {_cell(line)}"
        for metric, failed in one.failed.items()
        for check, line in failed.items()
    ]
    return "; ".join(lines) or "all"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")
