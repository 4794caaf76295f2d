"""Spectra: squared singular values and eigenbases of a target, one pair a view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.linalg import left_eigenbasis, tails, unfold


@dataclass(frozen=True)
class View:
    """One unfolding of a weight: `eigenvalues` (r,) squared singular values, descending, and
    `basis` (size of the mode, r) their singular vectors; float64."""

    eigenvalues: Tensor
    basis: Tensor

    @property
    def singular_values(self) -> Tensor:
        """(r,) descending, the unit of the weight."""
        return self.eigenvalues.sqrt()

    @property
    def tails(self) -> Tensor:
        """(r+1,) squared Frobenius error of every truncation: entry k keeps k directions."""
        return tails(self.eigenvalues)

    @property
    def energy(self) -> Tensor:
        """(r+1,) fraction of ‖W‖_F² that the first k directions hold; 1 for a zero weight."""
        rest = self.tails
        return 1.0 - rest / rest[0] if rest[0] > 0 else torch.ones_like(rest)


@dataclass(frozen=True)
class Spectra:
    """All views of one target.

    A matrix (m, n) has one view, of its smaller side: "mode0" (left vectors) if m ≤ n, else
    "mode1" (right vectors). A kernel has "mode0" and "mode1" and, for Tucker-2,
    `core_energy` (out, in): the squared norm of each spatial fibre of the kernel turned into
    both bases. Its sums over index ranges are the exact HOSVD errors of *all* rank pairs.
    """

    squared_norm: float
    views: Mapping[str, View]
    core_energy: Tensor | None = None


def analyze_weight(weight: Tensor) -> Spectra:
    """Spectra of a weight (out, in, *kernel) in the Frobenius norm (metric `weight`)."""
    exact = weight.to(torch.float64)
    squared_norm = float(exact.square().sum())
    if exact[0, 0].numel() == 1:
        matrix = exact.flatten(1)
        mode = 0 if matrix.shape[0] <= matrix.shape[1] else 1
        return Spectra(squared_norm, {f"mode{mode}": View(*left_eigenbasis(unfold(matrix, mode)))})
    kernel = exact.flatten(2)
    views = {f"mode{mode}": View(*left_eigenbasis(unfold(kernel, mode))) for mode in (0, 1)}
    core = torch.einsum("oik,oa,ib->abk", kernel, views["mode0"].basis, views["mode1"].basis)
    return Spectra(squared_norm, views, core.square().sum(-1))


def save_spectra(folder: Path, spectra: Mapping[str, Spectra]) -> None:
    """Writes folder/spectra.safetensors (float64)."""
    tensors: dict[str, Tensor] = {}
    for name, one in spectra.items():
        tensors[f"{name}/squared_norm"] = torch.tensor(one.squared_norm, dtype=torch.float64)
        for view_name, view in one.views.items():
            tensors[f"{name}/{view_name}/eigenvalues"] = view.eigenvalues
            tensors[f"{name}/{view_name}/basis"] = view.basis.contiguous()
        if one.core_energy is not None:
            tensors[f"{name}/core_energy"] = one.core_energy
    # The order of names is kept beside the tensors, which safetensors stores sorted.
    metadata = {"targets": json.dumps(list(spectra))}
    save_file(tensors, folder / "spectra.safetensors", metadata=metadata)


def load_spectra(folder: Path) -> dict[str, Spectra]:
    """Reads what `save_spectra` wrote, targets in the model's order."""
    path = folder / "spectra.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads(file.metadata()["targets"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise LowRankError(f"{path}: no readable spectra ({error}); rerun analyze") from error
    return {name: _spectra_of(name, tensors) for name in names}


def _spectra_of(name: str, tensors: Mapping[str, Tensor]) -> Spectra:
    views = {
        view: View(
            tensors[f"{name}/{view}/eigenvalues"],
            tensors[f"{name}/{view}/basis"],
        )
        for view in ("mode0", "mode1")
        if f"{name}/{view}/basis" in tensors
    }
    squared_norm = tensors[f"{name}/squared_norm"].item()
    return Spectra(squared_norm, views, tensors.get(f"{name}/core_energy"))
