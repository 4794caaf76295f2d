"""Are the results of two runs of the chain the same? For a change that should change no number.

    python -m benchmarks.same BEFORE AFTER

BEFORE and AFTER are workspaces of the chain (folders with out/ and reports/), from the same
configuration and the same baseline weights. Compared are the plan (method and ranks of every
layer), the tensors of each network to the bit, and metrics.json value by value. Each prints one
line, then a line for each difference; the exit status is 1 when there is a difference or nothing
to compare. What only one of them has, as when its chain is not finished, is said and not
compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

# Network → folders where it may lie: older workspaces spell that of the fine-tuned in one word.
NETWORKS = {
    "baseline": ("out/baseline",),
    "compressed": ("out/compressed",),
    "fine-tuned": ("out/fine_tuned", "out/finetuned"),
}
SHOWN = 20  # differences of one file that are printed

Values = Mapping[str, object]
Read = Callable[[Path], dict[str, object]]


def plan_of(file: Path) -> dict[str, object]:
    """Layer → its method and ranks, in any format that plan.json has had."""
    layers = json.loads(file.read_text())["layers"]
    return {name: f"{layer['method']} {layer['ranks']}" for name, layer in layers.items()}


def tensors_of(file: Path) -> dict[str, object]:
    """Name → type, shape and bytes of every tensor of a .safetensors file."""
    tensors = load_file(file)
    return {name: Bits(tensor) for name, tensor in tensors.items()}


class Bits:
    """A tensor that equals another when all its bits do: NaN equals NaN, and −0 is not 0."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor.contiguous()
        self._kind = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bits) or self._kind != other._kind:
            return False
        return torch.equal(self._bytes(), other._bytes())

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up

    def against(self, other: Bits) -> str:
        """Says for people how the two tensors differ."""
        if self._kind != other._kind:
            return f"{self._kind} → {other._kind}"
        unlike = (self._bytes() != other._bytes()).reshape(self._tensor.numel(), -1).any(dim=1)
        largest = (self._tensor.double() - other._tensor.double()).abs().max().item()
        return f"{int(unlike.sum())} of {len(unlike)} numbers differ, by at most {largest:.3g}"

    def _bytes(self) -> torch.Tensor:
        return self._tensor.reshape(-1).view(torch.uint8)


def metrics_of(file: Path) -> dict[str, object]:
    """Path of keys → value, of all numbers, words and flags in metrics.json."""
    return dict(_flat(json.loads(file.read_text()), ()))


def _flat(value: object, keys: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, (*keys, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flat(inner, (*keys, str(index)))
    else:
        yield ".".join(keys), value


def differences(before: Values, after: Values) -> list[str]:
    """One line for each name that only one of them has, or whose values differ."""
    lines = [f"{name}: only in BEFORE" for name in before if name not in after]
    lines += [f"{name}: only in AFTER" for name in after if name not in before]
    for name, value in before.items():
        # By type as well: a count that became 3.0 is written otherwise than before.
        other = after.get(name, value)
        if type(value) is not type(other) or value != other:
            told = (
                value.against(other)
                if isinstance(value, Bits) and isinstance(other, Bits)
                else None
            )
            lines.append(f"{name}: {told or f'{value} → {other}'}")
    return lines


def same(before: Path, after: Path) -> bool:
    """Prints what is the same and what is not; True when all that both have is the same.

    False as well when there is nothing that both have.
    """
    kinds: list[tuple[str, str, Read, tuple[str, ...]]] = [
        ("plan", "layers", plan_of, ("out/plan.json",)),
        *(
            (
                name,
                "tensors",
                tensors_of,
                tuple(f"{folder}/model.safetensors" for folder in folders),
            )
            for name, folders in NETWORKS.items()
        ),
        ("metrics", "values", metrics_of, ("reports/metrics.json",)),
    ]
    found = []
    for name, unit, read, places in kinds:
        one, other = _first(before, places), _first(after, places)
        if one is None or other is None:
            lacking = " and ".join(
                side for side, file in (("BEFORE", one), ("AFTER", other)) if file is None
            )
            print(f"{name}: not compared, no {places[0]} in {lacking}")
        else:
            found.append(_told(name, unit, read(one), read(other)))
    return bool(found) and all(found)


def _told(name: str, unit: str, before: Values, after: Values) -> bool:
    """Prints a line, and one for each of the first differences; True when there is none."""
    lines = differences(before, after)
    if not lines:
        print(f"{name}: {len(before)} {unit}, all the same")
        return True
    print(f"{name}: {len(lines)} differences ({unit}: {len(before)} before, {len(after)} after)")
    for line in lines[:SHOWN]:
        print(f"  {line}")
    if len(lines) > SHOWN:
        print(f"  … and {len(lines) - SHOWN} more")
    return False


def _first(workspace: Path, places: tuple[str, ...]) -> Path | None:
    """The file at the first of the places where there is one."""
    return next((workspace / place for place in places if (workspace / place).is_file()), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("after", type=Path, metavar="AFTER")
    arguments = parser.parse_args()
    for workspace in (arguments.before, arguments.after):
        if not workspace.is_dir():
            parser.error(f"{workspace}: no such folder")
    sys.exit(0 if same(arguments.before, arguments.after) else 1)


if __name__ == "__main__":
    main()
