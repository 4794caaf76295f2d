"""Which numbers of a configuration of transformers say the widths that a narrower network has:
found by building it, for no architecture by name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pipeline.lowrank.exports.quiet import quiet

Shapes = Mapping[str, tuple[int, ...]]


def narrower_config(model: Any) -> dict[str, int] | None:
    """{field of the configuration: its number} with which the plain architecture has the shapes of
    a narrowed network of transformers; None where no such numbers make it so, as where layers
    alike have different widths.

    Numbers are taken one after the other, those first that leave the fewest tensors of another
    shape.
    """
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found: dict[str, int] = {}
    now = _shapes(model, found)
    while now is not None and (wrong := _wrong(wanted, now)):
        tried = [found | {field: number} for field, number in _numbers(model, found, wanted, now)]
        shapes = [_shapes(model, fields) for fields in tried]
        left = [wrong if one is None else _wrong(wanted, one) for one in shapes]
        best = min(range(len(tried)), key=lambda place: left[place], default=None)
        if best is None or left[best] >= wrong:
            return None
        found, now = tried[best], shapes[best]
    return None if now is None else found


def _numbers(
    model: Any, found: Mapping[str, int], wanted: Shapes, now: Shapes
) -> Iterator[tuple[str, int]]:
    """Fields that may count what is another size, with the number that they would be then."""
    sizes = {
        pair
        for name, shape in wanted.items()
        if len(shape) == len(now.get(name, ()))
        for pair in zip(now[name], shape, strict=True)
        if pair[0] != pair[1]
    }
    fields = {k: v for k, v in vars(model.config).items() if type(v) is int and v > 1}
    for field, value in (fields | dict(found)).items():
        # What there are `each` of for each that the field counts, before and now.
        each = {(old // value, new) for old, new in sizes if old % value == 0}
        numbers = {new // count for count, new in each if new % count == 0}
        yield from ((field, number) for number in sorted(numbers))


def _shapes(model: Any, fields: Mapping[str, int]) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the plain architecture with these numbers; None where it has none."""
    config = copy.deepcopy(model.config)
    vars(config).update(fields)
    try:
        with torch.device("meta"), quiet():
            made = type(model)(config)
    except Exception:  # whatever a class does with numbers that do not fit
        return None
    return {name: tuple(p.shape) for name, p in made.named_parameters()}


def _wrong(wanted: Shapes, found: Shapes) -> int:
    """How many tensors have another shape."""
    return sum(found.get(name) != shape for name, shape in wanted.items())
