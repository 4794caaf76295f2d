"""The table that `print(analysis)` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lowrank.analysis.diagnostics import effective_rank, stable_rank
from pipeline.lowrank.analysis.tables import Table, compact, skipped_note

if TYPE_CHECKING:
    from pipeline.lowrank.analysis.analysis import Analysis


def analysis_table(analysis: Analysis) -> Table:
    """A table with a row for each target: kind, shape, costs, and the effective and the stable rank
    of the matrix out × (in·taps) in the metric."""
    rows = []
    for name, target in analysis.targets.items():
        values = analysis.spectra[name].views["mode0"].singular_values
        rows.append(
            [
                name or "(root)",
                target.kind,
                "×".join(map(str, target.shape)),
                compact(target.params),
                compact(target.macs),
                f"{effective_rank(values):.1f}",
                f"{stable_rank(values):.1f}",
            ]
        )
    of_targets = sum(target.params for target in analysis.targets.values())
    share = of_targets / max(analysis.totals.params, 1)
    damping = "" if analysis.damping is None else f" (damping {analysis.damping:g})"
    return Table(
        title=f"analysis: {len(rows)} targets in the metric {analysis.metric}{damping}",
        columns=["layer", "kind", "shape", "params", "MACs", "effective", "stable rank"],
        rows=rows,
        notes=[
            f"network: {analysis.totals.params:,} parameters, {share:.0%} of them in targets; "
            f"{analysis.totals.macs:,} MACs an example",
            *skipped_note(analysis.skipped),
        ],
    )
