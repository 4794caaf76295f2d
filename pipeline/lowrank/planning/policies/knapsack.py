"""The multiple-choice knapsack: one item of every group, least error within one capacity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_CELLS = 16_384  # of the grid of costs: memory is 4 bytes a cell and group
_ROUNDS = 4  # of dynamic programming, each on the finer grid that the last one's result allows


@dataclass(frozen=True)
class Knapsack:
    """min Σ error subject to Σ cost ≤ capacity, over one item of each group.

    costs: for each group (n,) int64, ascending.
    errors: for each group (n,) float64, descending: both are a Pareto front.
    capacity: at least the cost of the first items of all groups together.
    """

    costs: Sequence[Tensor]
    errors: Sequence[Tensor]
    capacity: int

    def error(self, items: Sequence[int]) -> float:
        return math.fsum(e[i].item() for e, i in zip(self.errors, items, strict=True))

    def spent(self, items: Sequence[int]) -> int:
        return sum(int(c[i]) for c, i in zip(self.costs, items, strict=True))


class Solution(NamedTuple):
    """The items that a solver chose.

    items: the chosen index of each group.
    error: Σ error of the items.
    bound: no choice has less error, by the linear relaxation.
    price: error a unit of cost at which the relaxation stops buying.
    """

    items: list[int]
    error: float
    bound: float
    price: float


class _Step(NamedTuple):
    """One edge of a group's lower convex hull: spend `cost`, save `gain` of error."""

    efficiency: float
    group: int
    to: int
    cost: int
    gain: float


def greedy(problem: Knapsack) -> Solution:
    """Walks the lower convex hulls of (cost, error) in order of error saved per cost, over all
    groups at once (Lagrangian relaxation); the remaining capacity is spent on single exchanges.

    The relaxation, which may take a fraction of one step, is the lower bound.
    """
    items = [0] * len(problem.costs)
    left = problem.capacity - problem.spent(items)
    bound, price = problem.error(items), 0.0
    stuck: set[int] = set()
    steps = [step for group in range(len(items)) for step in _hull(problem, group)]
    for step in sorted(steps, key=lambda s: -s.efficiency):
        if price == 0.0:
            share = min(1.0, left / step.cost)
            bound -= share * step.gain
            price = step.efficiency if share < 1.0 else 0.0
        if step.group not in stuck and step.cost <= left:
            items[step.group] = step.to
            left -= step.cost
        else:
            stuck.add(step.group)
    items = _exchange(problem, items)
    return Solution(items, problem.error(items), bound, price)


def along_hull(costs: Sequence[Tensor], errors: Sequence[Tensor]) -> Iterator[list[int]]:
    """One item of each group, as of `Knapsack`: the choices of least error + price · cost at all
    prices, from the cheapest items to the costliest."""
    problem = Knapsack(costs, errors, 0)
    items = [0] * len(costs)
    yield list(items)
    steps = [step for group in range(len(items)) for step in _hull(problem, group)]
    for step in sorted(steps, key=lambda s: -s.efficiency):
        items[step.group] = step.to
        yield list(items)


def exact(problem: Knapsack, cells: int = _CELLS) -> Solution:
    """Dynamic programming over a grid of `cells` costs (Dudziński & Walukiewicz 1987).

    Items that the bound rules out go first: with the relaxation's price λ, an item whose e + λc
    lies above its group's least by more than (best known error − bound) is in no better solution.
    The other items span a narrow range of costs, on which the grid is mostly exact; where it is
    not, costs are rounded *up*, so that the capacity holds, and the remainder is spent on single
    exchanges. Never worse than `greedy`; the optimum where no cost was rounded.
    """
    best = greedy(problem)
    for _ in range(_ROUNDS):
        found, rounded = _dynamic(problem, _promising(problem, best), cells)
        items = _exchange(problem, found)
        error = problem.error(items)
        if error >= best.error:
            break
        best = best._replace(items=items, error=error)
        if not rounded:
            break
    return best


def _hull(problem: Knapsack, group: int) -> list[_Step]:
    """Edges of the lower convex hull of one group, steepest first."""
    points = list(zip(problem.costs[group].tolist(), problem.errors[group].tolist(), strict=True))

    def step(start: int, end: int) -> _Step:
        cost, gain = points[end][0] - points[start][0], points[start][1] - points[end][1]
        return _Step(gain / cost, group, end, cost, gain)

    hull: list[_Step] = []
    corners = [0]
    for end in range(1, len(points)):
        edge = step(corners[-1], end)
        while hull and edge.efficiency >= hull[-1].efficiency:
            hull.pop()
            corners.pop()
            edge = step(corners[-1], end)
        hull.append(edge)
        corners.append(end)
    return hull


def _exchange(problem: Knapsack, items: list[int]) -> list[int]:
    """Single exchanges for a costlier item, best saving first, until none fits."""
    items = list(items)
    costs, errors = torch.cat(list(problem.costs)), torch.cat(list(problem.errors))
    sizes = torch.tensor([len(c) for c in problem.costs])
    start = sizes.cumsum(0) - sizes
    group = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    left = problem.capacity - problem.spent(items)
    while True:
        at = start + torch.tensor(items)
        extra = costs - costs[at][group]
        gain = torch.where((extra > 0) & (extra <= left), errors[at][group] - errors, -math.inf)
        best = int(gain.argmax())
        if gain[best] == -math.inf:
            return items
        left -= int(extra[best])
        items[int(group[best])] = best - int(start[group[best]])


def _promising(problem: Knapsack, known: Solution) -> list[Tensor]:
    """Indices of the items, group by group, that may be part of a better solution."""
    reduced = [
        e + known.price * c.to(torch.float64)
        for c, e in zip(problem.costs, problem.errors, strict=True)
    ]
    bound = math.fsum(r.min().item() for r in reduced) - known.price * problem.capacity
    # Rounding may blur the two sums by a few ulp of their largest terms.
    blur = 1e-12 * (sum(r.max().item() for r in reduced) + known.price * problem.capacity)
    slack = max(known.error - bound, 0.0) + blur
    return [(r <= r.min() + slack).nonzero().flatten() for r in reduced]


def _dynamic(problem: Knapsack, kept: list[Tensor], cells: int) -> tuple[list[int], bool]:
    """The best of the kept items on a grid of costs, and whether any cost was rounded."""
    base = [int(c[k[0]]) for c, k in zip(problem.costs, kept, strict=True)]
    above = [c[k] - b for c, k, b in zip(problem.costs, kept, base, strict=True)]
    room = problem.capacity - sum(base)
    unit = math.gcd(*torch.cat(above).tolist()) or 1
    rounded = room // unit > cells
    cell = -(-room // cells) if rounded else unit
    size = room // cell
    best = torch.zeros(size + 1, dtype=torch.float64)  # least error within 0…size cells
    back = torch.zeros(len(kept), size + 1, dtype=torch.int32)
    for group, (items, extra) in enumerate(zip(kept, above, strict=True)):
        weights = (extra + cell - 1) // cell
        errors = problem.errors[group][items].tolist()
        # Within one cell the last item is the costliest, and so the best.
        last = torch.cat([weights[1:] > weights[:-1], torch.ones(1, dtype=torch.bool)])
        first = int(last.nonzero()[0])
        after, back[group] = best + errors[first], int(items[first])
        for index in last.nonzero().flatten().tolist()[1:]:
            weight = int(weights[index])
            if weight > size:
                break
            error = best[: size + 1 - weight] + errors[index]
            better = error < after[weight:]
            after[weight:] = torch.where(better, error, after[weight:])
            back[group, weight:].masked_fill_(better, int(items[index]))
        best = after
    chosen = [0] * len(kept)
    at = size
    for group in reversed(range(len(kept))):
        chosen[group] = int(back[group, at])
        spent = int(problem.costs[group][chosen[group]]) - base[group]
        at -= -(-spent // cell)
    return chosen, rounded
