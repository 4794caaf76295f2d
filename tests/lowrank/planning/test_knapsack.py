"""The knapsack solvers against brute force, and at the size of a language model."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import Tensor

from pipeline.lowrank.planning.policies.knapsack import Knapsack, exact, greedy


def fronts(
    generator: torch.Generator, groups: int, items: int, largest: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Random Pareto fronts: costs ascending, errors descending, the last error 0."""
    costs, errors = [], []
    for _ in range(groups):
        count = int(torch.randint(1, items + 1, (1,), generator=generator))
        costs.append(torch.unique(torch.randint(1, largest, (count,), generator=generator)))
        drops = torch.rand(len(costs[-1]), generator=generator, dtype=torch.float64)
        errors.append(drops.cumsum(0).flip(0) - drops[-1])
    return costs, errors


def brute_force(problem: Knapsack) -> float:
    choices = itertools.product(*(range(len(c)) for c in problem.costs))
    return min(problem.error(c) for c in choices if problem.spent(c) <= problem.capacity)


def capacities(costs: list[Tensor], steps: int) -> list[int]:
    least = sum(int(c[0]) for c in costs)
    most = sum(int(c[-1]) for c in costs)
    return [least + (most - least) * step // steps for step in range(steps + 1)]


@pytest.mark.parametrize("seed", range(24))
def test_exact_is_the_optimum_and_the_bound_is_below_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    costs, errors = fronts(
        generator, groups=1 + seed % 4, items=6, largest=[5, 60, 10_000][seed % 3]
    )
    for capacity in capacities(costs, 7):
        problem = Knapsack(costs, errors, capacity)
        best = brute_force(problem)
        for solve, slack in ((exact, 1e-12), (greedy, float("inf"))):
            found = solve(problem)
            assert problem.spent(found.items) <= capacity
            assert found.error == problem.error(found.items)
            assert best - 1e-12 <= found.error <= best + slack
            assert found.bound <= best + 1e-12


def test_greedy_is_not_always_the_optimum() -> None:
    """The steep step to (2, 0.9) leaves no room for the one that saves everything."""
    problem = Knapsack(
        [torch.tensor([0, 2]), torch.tensor([0, 3])],
        [torch.tensor([1.0, 0.0]).double(), torch.tensor([1.4, 0.0]).double()],
        capacity=3,
    )
    assert greedy(problem).items == [1, 0]
    assert exact(problem).items == [0, 1]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("cells", [1, 7, 50])
def test_a_coarse_grid_never_exceeds_the_capacity_and_never_loses_to_greedy(
    seed: int, cells: int
) -> None:
    costs, errors = fronts(
        torch.Generator().manual_seed(seed), groups=30, items=40, largest=100_000
    )
    for capacity in capacities(costs, 5):
        problem = Knapsack(costs, errors, capacity)
        found, known = exact(problem, cells), greedy(problem)
        assert problem.spent(found.items) <= capacity
        assert known.bound - 1e-12 <= found.error <= known.error


def transformer() -> Knapsack:
    """The 210 projections of a small language model, spectra with tails of many slopes."""
    generator = torch.Generator().manual_seed(0)
    costs, errors = [], []
    for _ in range(30):
        for rows, columns in [(576, 576)] * 2 + [(192, 576)] * 2 + [(1536, 576)] * 3:
            ranks = torch.arange(1, (rows * columns - 1) // (rows + columns) + 1)
            slope = 0.3 + float(torch.rand(1, generator=generator))
            energy = torch.arange(1, min(rows, columns) + 1).double().pow(-2 * slope)
            tails = 1 - energy.cumsum(0)[: len(ranks)] / energy.sum()
            costs.append(torch.cat([ranks * (rows + columns), torch.tensor([rows * columns])]))
            errors.append(torch.cat([tails, torch.zeros(1)]))
            assert bool((costs[-1].diff() > 0).all() and (errors[-1].diff() < 0).all())
    dense = sum(int(c[-1]) for c in costs)
    return Knapsack(costs, errors, int(0.6 * dense))


def test_a_language_model_is_solved_in_seconds() -> None:
    """Processor time, which a busy machine does not stretch."""
    problem = transformer()
    start = time.process_time()
    known, found = greedy(problem), exact(problem)
    assert time.process_time() - start < 3.0
    assert problem.spent(found.items) <= problem.capacity
    assert found.error <= known.error
    assert (found.error - found.bound) / found.error < 1e-3
