"""README.md of an export: how it is loaded, how large it is, how it was checked, what it loses."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.lowrank.exports.base import Format, Written
from pipeline.lowrank.exports.record import Checked, Export

README = "README.md"
# transformers' hub reads these lines of a model card.
_FRONT = "---\nlibrary_name: transformers\ntags:\n- low-rank\n- compressed\n---\n"
_CHECKED: dict[Checked, str] = {
    "network": "the outputs of the whole network",
    "layers": "the outputs of each factorized layer, and of the whole network where it was written",
    "weights": "all weights",
}


def readme(kind: Format, written: Written, record: Export, notes: Sequence[str]) -> str:
    """The text; notes are the caller's paragraphs, and follow those of the format."""
    rows = [
        ("parameters", f"{record.parameters:,}"),
        ("size", f"{record.bytes / 1e6:.2f} MB"),
        ("form of the factorized layers", record.form),
        ("number format", record.dtype),
        (
            "largest difference from the network it was made of",
            f"{record.largest_difference:.2g} ({record.relative_difference:.2g} of the largest "
            "output)",
        ),
    ]
    if record.rounding is not None:
        rows.append(("changed by the number format", f"{record.rounding:.2g}"))
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    parts = [
        "# A compressed network",
        f'```python\nfolder = "."  # this folder\n{written.usage}```',
        table,
        f"Checked in a process without the project that made it: {_CHECKED[record.checked]}.",
        f"What this format loses: {kind.loses[0].lower()}{kind.loses[1:]}",
        *written.notes,
        *notes,
    ]
    front = _FRONT if kind.name == "huggingface" else ""
    return front + "\n\n".join(parts) + "\n"
