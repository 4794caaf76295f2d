"""What a factorized layer is: its modules, how factors go in and out, surgery, files."""

from __future__ import annotations

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.forms.base import Form
from pipeline.lowrank.forms.cp import CPForm
from pipeline.lowrank.forms.pivoted import Pivoted
from pipeline.lowrank.forms.spatial_svd import SpatialSVDForm
from pipeline.lowrank.forms.svd import SVDForm
from pipeline.lowrank.forms.svd_in import SVDInForm
from pipeline.lowrank.forms.tucker import TuckerForm
from pipeline.lowrank.forms.tucker2 import Tucker2Form

# Every form, by the name that network.json has for it.
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        SVDForm(),
        SVDInForm(),
        SpatialSVDForm(),
        Tucker2Form(),
        TuckerForm(),
        CPForm(),
        Pivoted(SVDForm(), ["out"]),
        Pivoted(Tucker2Form(), ["out", "in"]),
    )
}


def get_form(name: str) -> Form:
    """The form of this name; LowRankError with the nearest name if there is none."""
    if name in FORMS:
        return FORMS[name]
    raise LowRankError(f"unknown form {name!r}: {suggest(name, FORMS)}")


__all__ = ["FORMS", "Form", "Pivoted", "get_form"]
