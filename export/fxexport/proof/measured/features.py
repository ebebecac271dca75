"""Whether both heads read the same features: only then does what one makes of them tell of the other."""

from __future__ import annotations

import numpy as np

from fxexport.numerics.bounds import Precision
from fxexport.numerics.evaluate import flat
from fxexport.proof.measured.far_apart import Scale
from fxexport.proof.measured.rounding import Pairing, Side
from fxexport.terms.term import Array


def read_same_features(
    sides: tuple[Side, Side], pairing: Pairing, precision: Precision
) -> tuple[bool, str | None]:
    """True if both heads got the same features up to rounding; and what is to be said of them."""
    if not pairing.observed:
        return False, "the features that the two heads read do not pair up"
    a, b = sides[0].observed, sides[1].observed
    seen = [term for term in pairing.boundary if term in a]
    if any(flat(a[term]).shape != flat(b[term]).shape for term in seen):
        return False, "the features that the two heads read have different shapes"
    different = [term for term in seen if not _are_equal(a[term], b[term])]
    if not different:
        return True, None
    scale = Scale.of(precision)
    allowed = scale.floor * scale.unit
    for term in different:
        own, other = flat(a[term]), flat(b[term])
        with np.errstate(invalid="ignore"):
            apart = np.nanmax(np.abs(own - other), initial=0.0)
        if not apart <= allowed * np.nanmax(np.abs(own), initial=0.0):
            return False, f"the features {term.value!r} of the two models differ by up to {apart:.3g}"
    return True, "the features differ by rounding"


def _are_equal(a: Array, b: Array) -> bool:
    """True for the same numbers; a view may stand between the two, which adds or drops axes of one cell."""
    return np.array_equal(a.ravel(), b.ravel(), equal_nan=True)
