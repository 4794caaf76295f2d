"""The SVD and Tucker-2 with pivots: the same factors and errors in a smaller form.

Each pivoted side saves rank² numbers (`forms.pivoted`); at full rank such a layer costs what the
dense one costs, so there is no break-even rank to stay below (PIFA: Zhao et al. 2025, arXiv
2501.19090; interpolative decomposition: Cheng et al. 2005).
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.methods.svd import SVD
from pipeline.lowrank.methods.tucker2 import Tucker2
from pipeline.lowrank.typed import options


@options
class PivotedSVD(SVD):
    """The truncated SVD with pivots (PIFA: Zhao et al. 2025, arXiv 2501.19090); ranks = (rank,).
    `rank` of the output channels are the inner channels themselves, so that an m×n matrix needs
    rank·(m + n − rank) numbers."""

    name: ClassVar[str] = "pivoted_svd"
    form: ClassVar[Form] = FORMS["pivoted_svd"]
    on_matrices: ClassVar[str] = "pivoted_svd"


@options
class PivotedTucker2(Tucker2):
    """Tucker-2 with pivots on both sides; ranks = (out rank, in rank), of each group. A side of
    full rank needs no layer, so that the two matrix views of a kernel (`SVD`, `SVDIn`) are special
    cases. On a matrix it is `PivotedSVD`."""

    name: ClassVar[str] = "pivoted_tucker2"
    form: ClassVar[Form] = FORMS["pivoted_tucker2"]
    on_matrices: ClassVar[str] = "pivoted_svd"
