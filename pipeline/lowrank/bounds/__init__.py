"""Error bounds that certify, of one layer and of the whole network (docs/bounds.md).

>>> from pipeline.lowrank.bounds import certify
>>> found = certify(dense, compressed, inputs, names=reports)
>>> found.network.certificate.max, found.network.measured.max
"""

from __future__ import annotations

from pipeline.lowrank.bounds.layers import LayerBound
from pipeline.lowrank.bounds.network import certify, printed_formula
from pipeline.lowrank.bounds.record import Bounds, NetworkBound, Quantiles

__all__ = ["Bounds", "LayerBound", "NetworkBound", "Quantiles", "certify", "printed_formula"]
