"""Higher-order orthogonal iteration: the bases that Tucker and Tucker-2 truncate a kernel to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pipeline.lowrank.linalg import leading, unfold


def hooi(
    kernel: Tensor, bases: Sequence[Tensor], *, iterations: int, tolerance: float
) -> tuple[Tensor, list[Tensor]]:
    """(core, bases) of the truncation of the first len(bases) modes (De Lathauwer et al. 2000).

    kernel: (groups, *sizes) float64, each group by itself; bases: (groups, size, rank), one a
    mode, orthonormal: the HOSVD's are where the sweeps start. A sweep replaces each basis by
    the best one for the others, so ‖core‖² = ‖K‖² − ‖K − K̂‖² never falls; sweeps end when it
    rises by no more than `tolerance`·‖K‖², or after `iterations` of them (0: the HOSVD).
    """
    found = list(bases)
    # A sweep projects the two channel modes first, in this layout: each is one matrix product.
    unfoldings = [unfold(kernel, mode).contiguous() for mode in (0, 1)]
    enough = tolerance * kernel.square().sum().item()
    kept = 0.0
    for _ in range(iterations):
        before = kept
        for mode, basis in enumerate(found):
            others = _core(kernel, unfoldings, found, mode)
            kept, found[mode] = leading(unfold(others, mode), basis.shape[-1])
        if kept - before <= enough:
            break
    return _core(kernel, unfoldings, found, None), found


def _core(
    kernel: Tensor, unfoldings: Sequence[Tensor], bases: Sequence[Tensor], without: int | None
) -> Tensor:
    """The kernel in the coordinates of all bases but one."""
    first = 1 if without == 0 else 0
    core = _fold(bases[first].mT @ unfoldings[first], kernel, first)
    for mode, basis in enumerate(bases):
        if mode not in (first, without):
            core = project(core, basis, mode)
    return core


def project(kernel: Tensor, basis: Tensor, mode: int) -> Tensor:
    """The kernel (groups, *sizes) with one mode in the coordinates of basis (groups, size, r)."""
    return _fold(basis.mT @ unfold(kernel, mode), kernel, mode)


def _fold(unfolded: Tensor, like: Tensor, mode: int) -> Tensor:
    """Undoes `unfold` of a kernel whose other modes have the sizes of `like`."""
    others = [size for index, size in enumerate(like.shape[1:]) if index != mode]
    return unfolded.reshape(*unfolded.shape[:2], *others).movedim(1, mode + 1)
