"""Factorization methods, and the one place that lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods.base import Certificate, Method
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.methods.cp import CP
from pipeline.lowrank.methods.interpolative import Interpolative
from pipeline.lowrank.methods.pivoted import PivotedSVD, PivotedTucker2
from pipeline.lowrank.methods.spatial_svd import SpatialSVD
from pipeline.lowrank.methods.svd import SVD
from pipeline.lowrank.methods.svd_in import SVDIn
from pipeline.lowrank.methods.tucker import Tucker
from pipeline.lowrank.methods.tucker2 import Tucker2
from pipeline.lowrank.network.targets import Target

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (SVD, SVDIn, SpatialSVD, Tucker2, Tucker, CP, PivotedSVD, PivotedTucker2)
}

__all__ = [
    "CP",
    "METHODS",
    "SVD",
    "Certificate",
    "Interpolative",
    "Method",
    "PivotedSVD",
    "PivotedTucker2",
    "SVDIn",
    "SpatialSVD",
    "Tucker",
    "Tucker2",
    "candidates_of",
    "check_method_fits",
    "exact_candidate",
    "get_method",
    "make_method",
    "split_methods",
    "with_matrices",
]


def get_method(name: str) -> type[Method]:
    """The class of the method `name`. Raises LowRankError with the nearest name if there is
    none."""
    if name in METHODS:
        return METHODS[name]
    if name == Interpolative.name:
        raise LowRankError(
            f"{name} narrows several layers together, so that it cannot be named for one: give it "
            "among the methods that compete"
        )
    raise LowRankError(f"unknown method {name!r}: {suggest(name, METHODS)}")


def make_method(name: str, options: Mapping[str, object], seed: int = 0) -> Method:
    """The method `name` with its options.

    options: options of this method, and perhaps of others, which are ignored.
    seed: for methods that draw random numbers.

    Raises LowRankError for an unknown name, and for a value out of its range.
    """
    cls = get_method(name)
    declared = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    values = {**options, "seed": seed}
    return cls(**{key: value for key, value in values.items() if key in declared})


def split_methods(
    methods: Sequence[Method | Interpolative],
) -> tuple[list[Method], Interpolative | None]:
    """(the methods for one layer at a time; the one for the layers of inner dimensions, or None).
    Raises LowRankError for none at all, for what is no method, and for two of one name."""
    narrower = [method for method in methods if isinstance(method, Interpolative)]
    layerwise = [method for method in methods if not isinstance(method, Interpolative)]
    if len(set(narrower)) > 1:
        raise LowRankError(f"methods: {Interpolative.name} is given twice, with other options")
    if layerwise or not narrower:
        with_matrices(layerwise)
    return layerwise, narrower[0] if narrower else None


def with_matrices(methods: Sequence[Method]) -> dict[str, Method]:
    """{name: method} of the given methods and of the method that each of them becomes on a matrix,
    where a kernel's methods *are* a truncated SVD. Raises LowRankError for none, and for two of one
    name."""
    made: dict[str, Method] = {}
    for method in methods:
        if not isinstance(method, Method):
            raise LowRankError(
                f"methods: {method!r} is no method; give objects such as lr.PivotedTucker2(), or "
                f"make_method(name, options) for a name of {', '.join(METHODS)}"
            )
        if made.setdefault(method.name, method) != method:
            raise LowRankError(f"methods: {method.name} is given twice, with other options")
    if not made:
        raise LowRankError(f"no method chosen: name at least one of {', '.join(METHODS)}")
    for method in list(made.values()):
        made.setdefault(method.on_matrices, get_method(method.on_matrices)())
    return made


def exact_candidate(
    method: Method,
    target: Target,
    weights: Mapping[str, Tensor],
    spectra: Spectra,
    ranks: tuple[int, ...],
) -> Candidate | None:
    """The candidate of a method with exactly these ranks; None where the method has none such.

    weights: {target: weight in the metric}; read only for methods that need the weight.

    Raises LowRankError for a method and ranks that the layer cannot have.
    """
    check_method_fits(method, target, ranks)
    return method.candidate(target, _read(method, target, weights), spectra, ranks)


def check_method_fits(method: Method, target: Target, ranks: Sequence[int]) -> None:
    """Raises LowRankError for a method and ranks that the layer cannot have."""
    layer = f"layer {target.name!r} ({' × '.join(map(str, target.group_shape))})"
    if target.is_matrix and method.name != method.on_matrices:
        raise LowRankError(
            f"{layer}: on a matrix {method.name} is {method.on_matrices}, with one rank; name that"
        )
    if problem := method.form.check_ranks(target.group_shape, ranks):
        raise LowRankError(f"{layer}: {problem}")


def candidates_of(
    target: Target,
    weights: Mapping[str, Tensor],
    spectra: Spectra,
    names: Sequence[str],
    methods: Mapping[str, Method],
) -> list[Candidate]:
    """The worthwhile candidates of the methods `names` for one target, the dense one not among
    them.

    weights: as of `exact_candidate`.
    methods: {name: method}, with those on matrices (`with_matrices`).
    """
    chosen = [methods[name].on_matrices if target.is_matrix else name for name in names]
    return [
        candidate
        for name in dict.fromkeys(chosen)
        for candidate in methods[name].candidates(
            target, _read(methods[name], target, weights), spectra
        )
    ]


def _read(method: Method, target: Target, weights: Mapping[str, Tensor]) -> Tensor:
    return weights[target.name] if method.reads_weight else torch.empty(0, dtype=torch.float64)
