"""Whether both heads read the same features: only then do equal heads mean equal models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxexport.numerics.bounds import FP32, TF32, precision_of
from fxexport.numerics.evaluate import flat
from fxexport.proof.measured.rounding import Pairing, Side
from fxexport.proof.measured.tally import Tally
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.subject import Feeds, Subject
from fxexport.terms.term import Array, Term

_FACTOR = 16.0
"""How many times further from the float64 features than the module's own the other's may lie."""


def check_features(
    subjects: tuple[Subject, Subject],
    sides: tuple[Side, Side],
    feeds: tuple[Feeds, Feeds],
    pairing: Pairing,
    tally: Tally,
    *,
    is_same_backbone: bool,
) -> bool:
    """True if both heads got the same features, as far as can be told; notes and gaps go to ``tally``.

    Where the backbones are proved to be the same function, features differ by the rounding of sites
    upstream and nothing has to be measured. Else they are compared with float64, if a module is there
    that can be computed in it.
    """
    if not pairing.observed:
        tally.gaps.append("the features that the two heads read do not pair up")
        return False
    a, b = sides[0].observed, sides[1].observed
    if any(a[t].size != b[t].size for t in pairing.boundary if t in a):
        tally.gaps.append("the features that the two heads read have different shapes")
        return False
    different = [t for t in pairing.boundary if t in a and not _are_equal(a[t], b[t])]
    if not different:
        return True
    if is_same_backbone:
        tally.notes.append("the features differ by the rounding of sites upstream, which are proved alike")
        return True
    index = next((i for i, side in enumerate(subjects) if isinstance(side, ModuleSubject)), None)
    if index is None:
        tally.gaps.append(f"the features {different[0].value!r} of the two models differ, without a bound")
        return False
    return _is_near_float64(subjects[index], index, different, sides, feeds[index], pairing, tally)


def _are_equal(a: Array, b: Array) -> bool:
    """True for the same numbers; a view may stand between the two, which adds or drops axes of one cell."""
    return np.array_equal(a.reshape(len(a), -1), b.reshape(len(b), -1), equal_nan=True)


def _is_near_float64(
    module: Subject,
    index: int,
    different: Sequence[Term],
    sides: tuple[Side, Side],
    feeds: Feeds,
    pairing: Pairing,
    tally: Tally,
) -> bool:
    """True if the other's features lie about as near to float64 as the module's own.

    The first batch is computed in float64. It gives the scale of rounding, relative to the largest
    feature; on the other batches both models' features may lie as far apart as that allows.
    """
    if not isinstance(module, ModuleSubject):
        return False
    is_near = True
    names = {t: (t if index == 0 else pairing.observed[t]).value for t in different}
    exact = module.features64(feeds[0], tuple(names.values()))
    for term in different:
        wide = flat(exact[names[term]])
        own, other = (sides[i].observed[term] for i in (index, 1 - index))
        first = len(wide)
        largest = float(np.abs(wide).max(initial=0.0))
        needed = tally.precision if tally.precision is TF32 else precision_of(own.dtype.name) or FP32
        unit = max(needed.coarsest, needed.operand)
        own, other = flat(own), flat(other)
        rounding = max(float(np.abs(own[:first] - wide).max(initial=0.0)), unit * largest)
        distance = float(np.abs(other[:first] - wide).max(initial=0.0))
        relative = rounding / largest if largest else 0.0
        apart = np.abs(own - other).max(initial=0.0)
        allowed = 2 * _FACTOR * relative * float(np.abs(own).max(initial=0.0))
        if not (distance <= _FACTOR * rounding and apart <= allowed):
            tally.gaps.append(
                f"the features {term.value!r} lie {distance:.3g} from float64 on the first batch, where eager"
                f" ones lie {rounding:.3g}, and {apart:.3g} apart on all"
            )
            is_near = False
    tally.notes.append("the features were compared with float64 on these inputs, without a bound")
    return is_near
