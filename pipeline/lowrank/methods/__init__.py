"""Factorization methods, and the one place that lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods.base import Certificate, Method
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.methods.cp import CP
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
    "Method",
    "PivotedSVD",
    "PivotedTucker2",
    "SVDIn",
    "SpatialSVD",
    "Tucker",
    "Tucker2",
    "candidates_of",
    "get_method",
    "make_methods",
]


def get_method(name: str) -> type[Method]:
    """The class of a method; LowRankError with the nearest name if there is none."""
    if name in METHODS:
        return METHODS[name]
    raise LowRankError(f"unknown method {name!r}: {suggest(name, METHODS)}")


def make_methods(names: Sequence[str], **options: Any) -> dict[str, Method]:
    """Configured methods by name; each takes the options that it declares.

    With each comes the form that it takes on a matrix, where all methods *are* the truncated SVD.
    """
    if not names:
        raise LowRankError(f"no method chosen: name at least one of {', '.join(METHODS)}")
    made: dict[str, Method] = {}
    for name in [*names, *(get_method(name).on_matrices for name in names)]:
        cls = get_method(name)
        declared: set[str] = {f.name for f in fields(cls)} if is_dataclass(cls) else set()
        made[name] = cls(**{k: v for k, v in options.items() if k in declared})
    return made


def candidates_of(
    target: Target,
    weight: Tensor,
    spectra: Spectra,
    names: Sequence[str],
    methods: Mapping[str, Method],
) -> list[Candidate]:
    """Worthwhile candidates of the methods `names` for one target (dense not included)."""
    chosen = [methods[name].on_matrices if target.is_matrix else name for name in names]
    return [
        candidate
        for name in dict.fromkeys(chosen)
        for candidate in methods[name].candidates(target, weight, spectra)
    ]
