"""Higher-order orthogonal iteration: the bases that Tucker and Tucker-2 truncate a kernel to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pipeline.lowrank.network.linalg import leading, unfold
from pipeline.lowrank.typed import knob

# The options of the methods that iterate: Tucker and Tucker-2.
SWEEPS: int = knob(
    default=10, ge=0, help="tucker2, tucker: sweeps after the HOSVD; 0 keeps the HOSVD"
)
TOLERANCE: float = knob(
    default=1e-5,
    ge=0,
    help="tucker2, tucker: stop when a sweep lowers the squared error by less, relative to ‖K‖²",
)


def hooi(
    kernel: Tensor, bases: Sequence[Tensor], *, iterations: int, tolerance: float
) -> tuple[Tensor, list[Tensor]]:
    """Higher-order orthogonal iteration, which minimises ‖K − K̂‖² over bases of the first
    len(bases) modes (De Lathauwer et al. 2000); as tensorly.decomposition.partial_tucker.

    kernel: (groups, *sizes) float64, each group by itself.
    bases: (groups, size, rank) orthonormal, one a mode, from which the sweeps start: those of the
        HOSVD.
    iterations: sweeps at most; 0 keeps the bases.
    tolerance: sweeps end when ‖core‖² = ‖K‖² − ‖K − K̂‖² rises by no more than this part of ‖K‖².

    Returns (core, bases). A sweep replaces each basis by the best one for the others, so that the
    error never rises.
    """
    found = list(bases)
    # The first two projections touch the whole kernel: one matrix product each in this layout.
    # What the new basis of mode 0 leaves serves all other modes of the sweep.
    unfoldings = [unfold(kernel, mode).contiguous() for mode in (0, 1)]
    enough = tolerance * kernel.square().sum().item()
    kept = 0.0
    for _ in range(iterations):
        before = kept
        others = _fold(found[1].mT @ unfoldings[1], kernel, 1)
        others = _project_all(others, found, without=(0, 1))
        _, found[0] = leading(unfold(others, 0), found[0].shape[-1])
        narrowed = _fold(found[0].mT @ unfoldings[0], kernel, 0)
        for mode in range(1, len(found)):
            others = _project_all(narrowed, found, without=(0, mode))
            kept, found[mode] = leading(unfold(others, mode), found[mode].shape[-1])
        if kept - before <= enough:
            break
    narrowed = _fold(found[0].mT @ unfoldings[0], kernel, 0)
    return _project_all(narrowed, found, without=(0,)), found


def _project_all(kernel: Tensor, bases: Sequence[Tensor], *, without: Sequence[int]) -> Tensor:
    for mode, basis in enumerate(bases):
        if mode not in without:
            kernel = project(kernel, basis, mode)
    return kernel


def project(kernel: Tensor, basis: Tensor, mode: int) -> Tensor:
    """The kernel (groups, *sizes) with one mode in the coordinates of basis (groups, size, r)."""
    return _fold(basis.mT @ unfold(kernel, mode), kernel, mode)


def _fold(unfolded: Tensor, like: Tensor, mode: int) -> Tensor:
    """Undoes `unfold` of a kernel whose other modes have the sizes of `like`."""
    others = [size for index, size in enumerate(like.shape[1:]) if index != mode]
    return unfolded.reshape(*unfolded.shape[:2], *others).movedim(1, mode + 1)
