"""Options of the certificate."""

from __future__ import annotations

from pipeline.lowrank.typed import knob, options

MEMORY_GIB = 8.0


@options
class CertifyOptions:
    """Calibration examples on which decompose certifies the network's error (docs/bounds.md)."""

    examples: int = knob(
        default=256, ge=1, help="calibration examples; all of them where there are fewer"
    )
    batch_size: int = knob(default=64, ge=1, help="examples a batch")
    memory_gib: float = knob(
        default=MEMORY_GIB,
        gt=0,
        help="for the float64 copies of both networks; larger ones run in their own number format, "
        "and only the network's error is measured",
    )
