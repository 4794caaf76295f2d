"""What is known of the errors of a compressed network's layers, and of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lowrank.bounds.layers import LayerBound


@dataclass(frozen=True)
class Quantiles:
    """The 50 %, 90 % and 100 % quantiles of one figure over the examples."""

    median: float
    p90: float
    max: float


@dataclass(frozen=True)
class NetworkBound:
    """What is known of ‖f(x) − f̂(x)‖, in the unit of the network's outputs, computed in float64.

    certified: whether there is a bound; `reason` says why not.
    measured: over the given inputs (several outputs count as one vector).
    longest_input: the largest ‖x‖ of the given inputs.
    certificate: an upper bound for each of these inputs, and for no others.
    tightness: measured / certificate, input by input; 1 is a bound that is reached.
    worst_case: an upper bound for every x with ‖x‖ ≤ longest_input.
    printed_formula: Theorem 4 of the course module as it is printed; *not a bound*.

    The last five are None where the network cannot be certified.
    """

    certified: bool
    reason: str | None
    examples: int
    measured: Quantiles
    longest_input: float | None = None
    certificate: Quantiles | None = None
    tightness: Quantiles | None = None
    worst_case: float | None = None
    printed_formula: float | None = None


@dataclass(frozen=True)
class Bounds:
    """The bounds of all replaced layers by name, and of the network."""

    layers: Mapping[str, LayerBound]
    network: NetworkBound
