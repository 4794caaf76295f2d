"""Spectra: squared singular values and eigenbases of a target, one pair a view."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.lowrank.analysis.leading import squared_values, truncated
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.linalg import left_eigenbasis, split_groups, tails, unfold
from pipeline.lowrank.typed.kept import keep, kept

_FILE = "spectra.safetensors"
LARGE = 2048  # the smaller side of a matrix from which on no basis is kept on disk


@dataclass(frozen=True)
class View:
    """One unfolding of a weight.

    eigenvalues: (r,) squared singular values, descending, float64, on the CPU, where plans are
        made.
    basis: (groups, size of the mode, r) their left singular vectors, float64, where the weight is;
        of a large matrix whose spectra were spilled (groups, size, 0): see `with_directions`.
    right: (groups, columns of the basis, others) float64, the other factor of the truncation to
        this basis, of the very weight; None where it was not computed with the basis.

    For a grouped convolution each eigenvalue is the sum over the groups of their i-th one: with the
    same rank in each group, its tail sums are then the exact errors of the whole layer.
    """

    eigenvalues: Tensor
    basis: Tensor
    right: Tensor | None = None

    @property
    def singular_values(self) -> Tensor:
        """(r,) descending, in the unit of the weight; as numpy.linalg.svd(matrix)[1] for one
        group."""
        return self.eigenvalues.sqrt()

    @property
    def tails(self) -> Tensor:
        """(r+1,) squared Frobenius error of every truncation: entry k keeps k directions."""
        return tails(self.eigenvalues)

    @property
    def energy(self) -> Tensor:
        """(r+1,) fraction of ‖W‖_F² that the first k directions hold; 1 for a zero weight. As
        numpy.cumsum(s**2) / numpy.sum(s**2), with a 0 before it."""
        rest = self.tails
        return 1.0 - rest / rest[0] if rest[0] > 0 else torch.ones_like(rest)

    def leading(self, rank: int) -> Tensor:
        """(groups, size, rank) the first columns of the basis. Raises LowRankError where the basis
        was not kept."""
        if self.basis.shape[-1] < min(rank, len(self.eigenvalues)):
            raise LowRankError(
                f"{rank} directions are asked of spectra that keep {self.basis.shape[-1]}; "
                "with_directions(spectra, weight, rank, name) computes them"
            )
        return self.basis[..., :rank]


@dataclass(frozen=True)
class Spectra:
    """All views of one target, whose `groups` (1 but for grouped convolutions) stay apart.

    squared_norm: ‖W‖_F².
    views: a matrix has the view "mode0". A kernel (out, in / groups, *kernel) has one view for each
        mode, "mode0" (out), "mode1" (in), "mode2" and so on (the kernel's axes), and where both
        axes of a Conv2d kernel are longer than 1 the view "spatial", the matrix (in·height) ×
        (out·width).
    core_energy: for Tucker-2, (out, in): the squared norm of each spatial fibre of the kernel
        turned into both bases. Its sums over index ranges are the exact HOSVD errors of *all* rank
        pairs.
    """

    squared_norm: float
    views: Mapping[str, View]
    core_energy: Tensor | None = None

    @property
    def groups(self) -> int:
        """The number of groups that stay apart."""
        return self.views["mode0"].basis.shape[0]

    @property
    def values_alone(self) -> bool:
        """Whether no basis was kept, as of large matrices; `with_directions` computes what is
        needed of it."""
        return self.views["mode0"].basis.shape[-1] == 0

    def fit(self, shape: Sequence[int], groups: int) -> bool:
        """Whether they can be those of a weight with groups of this shape."""
        kernel = math.prod(shape[2:]) > 1
        modes = {f"mode{mode}" for mode in range(len(shape) if kernel else 1)}
        return (
            modes <= self.views.keys()
            and kernel == (self.core_energy is not None)
            and self.views["mode0"].basis.shape[:2] == (groups, shape[0])
        )


def analyze_weight(weight: Tensor, groups: int = 1) -> Spectra:
    """Spectra of a weight (out, in / groups, *kernel) in the Frobenius norm (metric `weight`)."""
    kernel = split_groups(weight.to(torch.float64), groups)
    squared_norm = float(kernel.square().sum())
    if kernel[0, 0, 0].numel() == 1:
        return Spectra(squared_norm, {"mode0": _view(kernel.flatten(2))})
    views = {f"mode{mode}": _view(unfold(kernel, mode)) for mode in range(weight.ndim)}
    if weight.ndim == 4 and min(weight.shape[2:]) > 1:
        views["spatial"] = _view(spatial_matrix(kernel))
    out_basis, in_basis = views["mode0"].basis, views["mode1"].basis
    turned = (out_basis.mT @ unfold(kernel, 0)).reshape(groups, -1, *kernel.flatten(3).shape[2:])
    core = torch.einsum("gait,gib->gabt", turned, in_basis)
    return Spectra(squared_norm, views, core.square().sum((0, 3)).cpu())


def is_large(weight: Tensor, groups: int) -> bool:
    """Whether a weight (out, in / groups, *kernel) is a matrix both sides of which are at least
    `LARGE`."""
    matrix = weight[0, 0].numel() == 1
    return matrix and min(weight.shape[0] // groups, weight.shape[1]) >= LARGE


def analyze_values(weight: Tensor, groups: int = 1) -> Spectra:
    """As `analyze_weight` of a matrix, without its basis and for a quarter of the time: singular
    values are the same to the rounding of float64."""
    matrices = split_groups(weight, groups).flatten(2)
    lengths = [torch.linalg.vector_norm(matrix, dtype=torch.float64).item() for matrix in matrices]
    empty = matrices.new_empty(*matrices.shape[:2], 0, dtype=torch.float64)
    view = View(squared_values(matrices), empty)
    return Spectra(math.fsum(length**2 for length in lengths), {"mode0": view})


def with_directions(spectra: Spectra, weight: Tensor, rank: int, name: str) -> Spectra:
    """The spectra of `analyze_values` with the truncation to `rank` directions: the first columns
    of their basis, and the other factor.

    weight: (out, in / groups, *kernel of one tap), whose spectra they are.
    name: of the layer, for the warning that they take longer than expected.
    """
    view = spectra.views["mode0"]
    matrices = split_groups(weight, spectra.groups).flatten(2)
    factors = truncated(matrices, view.eigenvalues, rank, name)
    return replace(spectra, views={"mode0": View(view.eigenvalues, *factors)})


def truncated_svd(weight: Tensor, spectra: Spectra, rank: int) -> tuple[Tensor, Tensor]:
    """(right, left) factors of the truncated SVD of a weight seen as the matrix out × (in·taps),
    in the shapes of the form `svd`, float64; the singular values are in `right`.

    weight: (out, in / groups, *kernel); spectra: with a basis of its view "mode0". As
    numpy.linalg.svd(matrix) cut to `rank`, with left = U and right = Σ·Vᵀ.
    """
    basis = spectra.views["mode0"].leading(rank)
    matrix = split_groups(weight.to(torch.float64), spectra.groups).flatten(2)
    right = (basis.mT @ matrix).reshape(-1, *weight.shape[1:])
    return right, basis.reshape(-1, basis.shape[-1], *[1] * (weight.ndim - 2))


def spatial_matrix(kernel: Tensor) -> Tensor:
    """(groups, out, in, height, width) → (groups, in·height, out·width)."""
    return kernel.permute(0, 2, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _view(matrices: Tensor) -> View:
    """The view of one matrix a group: (groups, size, others)."""
    eigenvalues, basis = left_eigenbasis(matrices)
    return View(eigenvalues.sum(0).cpu(), basis)


def spilled(
    folder: Path,
    known: str,
    weight: Tensor,
    groups: int,
    whiten: Callable[[Tensor], Tensor] | None = None,
) -> Spectra:
    """`analyze_weight` of a weight, or `analyze_values` of a large one, kept in a file of the
    folder, from which its numbers are read when they are needed; of a file that is there already,
    without computing anything.

    known: the file's name, letters, digits and dashes.
    whiten: brings the weight into the metric; None for the metric `weight`.
    """
    path = kept(folder, known)
    if path is None:
        analyzed = analyze_values if is_large(weight, groups) else analyze_weight
        found = {known: analyzed(whiten(weight) if whiten else weight, groups)}
        path = keep(folder, known, lambda part: _write(part, found))
    return _read(path, weight.device)[known]


def save_spectra(folder: Path, spectra: Mapping[str, Spectra]) -> None:
    """Writes folder/spectra.safetensors (float64)."""
    _write(folder / _FILE, spectra)


def load_spectra(folder: Path, device: torch.device | str = "cpu") -> dict[str, Spectra]:
    """Reads what `save_spectra` wrote, targets in the model's order, bases to `device`. Raises
    LowRankError where it is missing or damaged."""
    return _read(folder / _FILE, device)


def _write(path: Path, spectra: Mapping[str, Spectra]) -> None:
    tensors: dict[str, Tensor] = {}
    for name, one in spectra.items():
        tensors[f"{name}/squared_norm"] = torch.tensor(one.squared_norm, dtype=torch.float64)
        for view_name, view in one.views.items():
            tensors[f"{name}/{view_name}/eigenvalues"] = view.eigenvalues
            tensors[f"{name}/{view_name}/basis"] = view.basis.contiguous()
        if one.core_energy is not None:
            tensors[f"{name}/core_energy"] = one.core_energy
    # The order of names is kept beside the tensors, which safetensors stores sorted.
    save_file(tensors, path, metadata={"targets": json.dumps(list(spectra))})


def _read(path: Path, device: torch.device | str) -> dict[str, Spectra]:
    """On the CPU the tensors stay in the file, and are read when they are needed."""
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads(file.metadata()["targets"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        placed = {k: t.to(device) if k.endswith("/basis") else t for k, t in tensors.items()}
        return {name: _spectra_of(name, placed) for name in names}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LowRankError(f"{path}: no readable spectra ({error}); rerun analyze") from error


def _spectra_of(name: str, tensors: Mapping[str, Tensor]) -> Spectra:
    prefix, suffix = f"{name}/", "/basis"
    keys = [k for k in tensors if k.startswith(prefix) and k.endswith(suffix)]
    found = [k[len(prefix) : -len(suffix)] for k in keys]
    views = {
        view: View(tensors[f"{name}/{view}/eigenvalues"], tensors[f"{name}/{view}/basis"])
        for view in found
    }
    squared_norm = tensors[f"{name}/squared_norm"].item()
    return Spectra(squared_norm, views, tensors.get(f"{name}/core_energy"))
