"""Options of the certificate."""

from __future__ import annotations

from pipeline.lowrank.typed import knob, options


@options
class CertifyOptions:
    """Calibration examples on which decompose certifies the network's error (docs/bounds.md)."""

    examples: int = knob(
        default=256, ge=1, help="calibration examples; all of them where there are fewer"
    )
    batch_size: int = knob(default=64, ge=1, help="examples a batch")
