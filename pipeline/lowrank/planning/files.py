"""plan.json: a plan that a person can read and edit.

The decision stands under metric, damping, seed, policy, methods (with their options) and layers
(method, ranks, why); what is derived from it stands under `expected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, get_method
from pipeline.lowrank.methods.interpolative import Interpolative
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.inner.dimension import InnerDimension
from pipeline.lowrank.network.skipped import Skipped
from pipeline.lowrank.planning.from_file import FromFile
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.plan import (
    Contestant,
    Expected,
    ExpectedLayer,
    Plan,
    PlannedLayer,
)
from pipeline.lowrank.planning.policies import Policy, get_policy
from pipeline.lowrank.planning.timing.expected import ExpectedLatency
from pipeline.lowrank.typed import load_record, save_record

_REMEDY = "correct it, or make it again with rank-select"


@dataclass(frozen=True)
class _Uniform:
    layers: Mapping[str, ExpectedLayer]
    planned: Totals


@dataclass(frozen=True)
class _Expected:
    dense: Totals
    planned: Totals
    loss_increase: float | None
    optimality_gap: float | None
    layers: Mapping[str, ExpectedLayer]
    uniform: _Uniform | None
    latency: ExpectedLatency | None = None


@dataclass(frozen=True)
class _NarrowingFile:
    method: Mapping[str, Any]
    found: Mapping[str, InnerDimension]
    left: Mapping[str, str]
    orders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _PlanFile:
    format: Literal[2]
    metric: MetricName
    damping: float | None
    seed: int
    policy: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    layers: Mapping[str, PlannedLayer]
    skipped: Mapping[str, Skipped]
    contest: tuple[Contestant, ...]
    expected: _Expected
    narrowing: _NarrowingFile | None = None


def save_plan(path: Path, plan: Plan) -> None:
    """Writes a plan as JSON that a person can read and edit, without the analysis that it was made
    from."""
    uniform, inner = plan.uniform, plan.narrowing
    save_record(
        path,
        _PlanFile(
            format=2,
            metric=plan.metric,
            damping=plan.damping,
            seed=plan.seed,
            policy=_options(plan.policy),
            methods={name: _options(method, named=False) for name, method in plan.methods.items()},
            layers=plan.layers,
            skipped=plan.skipped,
            contest=plan.contest,
            expected=_Expected(
                dense=plan.expected.dense,
                planned=plan.expected.planned,
                loss_increase=plan.expected.loss_increase,
                optimality_gap=plan.optimality_gap,
                layers=plan.expected.layers,
                uniform=_Uniform(uniform.expected.layers, uniform.expected.planned)
                if uniform
                else None,
                latency=plan.expected.latency,
            ),
            narrowing=_narrowing_file(inner, plan.widths) if inner else None,
        ),
    )


def load_plan(path: Path) -> Plan:
    """Reads a plan that `save_plan` wrote and that a person may have edited; `apply_` computes what
    is expected of an edited layer. Raises LowRankError, one line with the place of the fault."""
    file = load_record(path, _PlanFile, _REMEDY)
    methods = {name: _method(name, options) for name, options in file.methods.items()}
    known = file.expected
    expected = Expected(known.layers, known.dense, known.planned, known.latency)
    inner = file.narrowing
    policy = _policy(file.policy)
    plan = Plan(
        metric=file.metric,
        damping=file.damping,
        seed=file.seed,
        policy=policy,
        methods=methods,
        layers=file.layers,
        expected=expected,
        skipped=file.skipped,
        optimality_gap=file.expected.optimality_gap,
        contest=file.contest,
        narrowing=_narrowing(inner) if inner else None,
    )
    return _with_uniform(plan, file.expected)


def _narrowing_file(inner: Narrowing, widths: Mapping[str, int]) -> _NarrowingFile:
    """With the orders of the channels of what is narrowed: nobody has to search for them again."""
    known = {name: inner.eliminations.get(name) for name in widths}
    found = {n: one.order for n, one in known.items() if one} | {
        n: order for n, order in inner.orders.items() if n in widths and known[n] is None
    }
    orders = {name: _text(order) for name, order in found.items()}
    return _NarrowingFile(_options(inner.method, named=False), inner.found, inner.left, orders)


def _narrowing(file: _NarrowingFile) -> Narrowing:
    orders = {name: _order(name, text, file.found) for name, text in file.orders.items()}
    return Narrowing(Interpolative(**file.method), file.found, file.left, orders)


def _text(order: Tensor) -> str:
    """Channels with blanks between them, and a comma between those of one expert and the next."""
    rows = order.reshape(-1, order.shape[-1]).tolist()
    return ", ".join(" ".join(map(str, row)) for row in rows)


def _order(name: str, text: str, found: Mapping[str, InnerDimension]) -> Tensor:
    width, groups = (found[name].width, found[name].groups) if name in found else (0, 1)
    rows = [row.split() for row in text.split(",")]
    whole = set(map(str, range(width)))
    if len(rows) != groups or any(len(row) != width or set(row) != whole for row in rows):
        each = f", for each of {groups} experts" if groups > 1 else ""
        raise LowRankError(
            f"narrowing.orders.{name}: is not each of the channels 0 … {width - 1} once{each}, but "
            f"{text[:40]!r}; take the line out, and the order is computed again"
        )
    orders = torch.tensor([[int(word) for word in row] for row in rows], dtype=torch.int64)
    return orders if groups > 1 else orders[0]


def _with_uniform(plan: Plan, expected: _Expected) -> Plan:
    if expected.uniform is None:
        return plan
    layers = expected.uniform.layers
    beside = replace(
        plan,
        layers={name: PlannedLayer(one.method, one.ranks) for name, one in layers.items()},
        expected=Expected(layers, expected.dense, expected.uniform.planned),
        optimality_gap=None,
        contest=(),
    )
    return replace(plan, uniform=beside)


def _options(value: Policy | Method | Interpolative, *, named: bool = True) -> dict[str, Any]:
    own: dict[str, Any] = asdict(value)  # type: ignore[arg-type]
    return {"name": value.name, **own} if named else own


def _method(name: str, options: Mapping[str, Any]) -> Method:
    return get_method(name)(**options)


def _policy(value: Mapping[str, Any]) -> Policy:
    options = {key: one for key, one in value.items() if key != "name"}
    name = str(value.get("name"))
    return FromFile(**options) if name == FromFile.name else get_policy(name)(**options)
