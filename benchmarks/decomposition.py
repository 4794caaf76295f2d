"""Decompositions against TensorLy and LAPACK, side by side: a Markdown table on stdout.

    python -m benchmarks.decomposition [--threads 1] [--repetitions 3] [--only svd tucker cp]

Weights have decaying spectra and 10 % noise, seeded, float64, in the shapes of ResNet kernels
and of projections of a transformer with 10⁹ parameters. Seconds are processor time: the median of
runs in which the contestants take turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import tensorly
import torch
from tensorly.decomposition import parafac, partial_tucker, tucker
from torch import Tensor

from pipeline.lowrank.analysis.spectra import analyze_weight
from pipeline.lowrank.methods import CP, SVD
from pipeline.lowrank.methods.hooi import hooi
from pipeline.lowrank.network.linalg import left_eigenbasis, relative_error, split_groups, unfold
from pipeline.lowrank.network.targets import Target

Contest = tuple[str, dict[str, Callable[[], float | None]]]


def planted(*shape: int) -> Tensor:
    """A weight whose channel modes decay like i^(−0.7), plus noise of a tenth of its norm."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    for mode in (0, 1):
        size = shape[mode]
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        decay = torch.arange(1, size + 1, dtype=torch.float64) ** -0.7
        weight = torch.tensordot(basis * decay, weight.movedim(mode, 0), 1).movedim(0, mode)
    noise = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return weight / weight.norm() + 0.1 * noise / math.sqrt(noise.numel())


def svd_contests() -> Iterator[Contest]:
    """All candidates of a matrix at once, against one `eigh` of a Gram matrix of that size."""
    for outputs, inputs in [(512, 128), (2048, 512), (512, 2048), (2048, 2048), (2048, 8192)]:
        matrix = planted(outputs, inputs)
        gram = matrix @ matrix.T if outputs <= inputs else matrix.T @ matrix
        target = Target("w", "linear", (outputs, inputs), False, 1, 1)
        rank = min(outputs, inputs) // 4

        def ours(matrix: Tensor = matrix, target: Target = target) -> None:
            SVD().candidates(target, matrix, analyze_weight(matrix))

        def eigh(gram: Tensor = gram) -> None:
            torch.linalg.eigh(gram)

        def product(matrix: Tensor = matrix) -> None:
            matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix

        def lapack(matrix: Tensor = matrix) -> None:
            torch.linalg.svd(matrix, full_matrices=False)

        def lowrank(matrix: Tensor = matrix, rank: int = rank) -> float:
            left, values, right = torch.svd_lowrank(matrix, rank)
            return relative_error(matrix, left * values @ right.T)

        yield (
            f"svd {outputs}×{inputs}",
            {"ours": ours, "eigh": eigh, "Gram": product, "svd": lapack, "svd_lowrank": lowrank},
        )


def tucker_contests() -> Iterator[Contest]:
    for channels in (64, 128, 256, 512):
        kernel = planted(channels, channels, 3, 3)
        ranks = [channels // 3, channels // 3, 2, 2]

        def run(modes: int, kernel: Tensor = kernel, ranks: list[int] = ranks) -> float:
            grouped = split_groups(kernel, 1)
            bases = [
                left_eigenbasis(unfold(grouped, mode))[1][..., : ranks[mode]]
                for mode in range(modes)
            ]
            core, _ = hooi(grouped, bases, iterations=10, tolerance=1e-5)
            return (1.0 - core.square().sum() / kernel.square().sum()).sqrt().item()

        def two(kernel: Tensor = kernel, ranks: list[int] = ranks) -> float:
            (core, factors), _ = partial_tucker(kernel, rank=ranks[:2], modes=[0, 1])
            dense = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
            return relative_error(kernel, dense)

        def every(kernel: Tensor = kernel, ranks: list[int] = ranks) -> float:
            return relative_error(kernel, tucker(kernel, rank=ranks).to_tensor())

        shape = f"{channels}×{channels}×3×3"
        yield f"tucker2 {shape}", {"ours": lambda run=run: run(2), "TensorLy": two}
        yield f"tucker {shape}", {"ours": lambda run=run: run(4), "TensorLy": every}


def cp_contests() -> Iterator[Contest]:
    """CP of one rank from a cold start, corrected, at two tolerances; TensorLy has its defaults
    (100 sweeps, tolerance 1e-8)."""
    for channels, rank in [(64, 32), (128, 64), (256, 64)]:
        kernel = planted(channels, channels, 3, 3)
        spectra = analyze_weight(kernel)

        def run(tolerance: float, kernel=kernel, rank=rank, spectra=spectra) -> float:  # type: ignore[no-untyped-def]
            (fit,) = CP(cp_tolerance=tolerance)._fits(kernel, spectra, [rank])
            return math.sqrt(fit.squared_error / spectra.squared_norm)

        def theirs(kernel: Tensor = kernel, rank: int = rank) -> float:
            weights, factors = parafac(kernel.flatten(2), rank)
            return relative_error(kernel.flatten(2), tensorly.cp_to_tensor((weights, factors)))

        yield (
            f"cp {channels}×{channels}×9, rank {rank}",
            {
                "ours": lambda run=run: run(1e-5),
                "ours, 1e-4": lambda run=run: run(1e-4),
                "TensorLy": theirs,
            },
        )


CONTESTS = {"svd": svd_contests, "tucker": tucker_contests, "cp": cp_contests}


def measure(contest: Contest, repetitions: int) -> list[str]:
    """One line for each contestant: name, median seconds, their ratio to ours, relative error."""
    title, contestants = contest
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    errors: dict[str, float | None] = {}
    for _ in range(repetitions):
        for name, run in contestants.items():
            start = time.process_time()
            errors[name] = run()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        f"| {title} | {name} | {median:.4f} | {median / medians['ours']:.2f} | "
        + ("" if (error := errors[name]) is None else f"{error:.4f}")
        + " |"
        for name, median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTS), default=list(CONTESTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tensorly.set_backend("pytorch")
    warnings.filterwarnings("ignore", category=UserWarning, module="tensorly")
    print("| weight | who | seconds | × ours | relative error |\n|---|---|---|---|---|")
    for name in options.only:
        for contest in CONTESTS[name]():
            print("\n".join(measure(contest, options.repetitions)), flush=True)


if __name__ == "__main__":
    main()
