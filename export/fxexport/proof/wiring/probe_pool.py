"""A pool behind a site, run alone on maps for which its average is exact.

Features are multiples of the number of positions, a power of two: every partial sum is an integer that the
type holds, and so is the average, whether the pool divides or multiplies. Another divisor, padding that
counts, or a step that leaves positions out shows bit for bit.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from fxexport.results import Failure
from fxexport.subjects.subject import Subject
from fxexport.terms.term import HeadTerm, affine_of
from fxpasses.errors import FxHeadError

_EXTENTS = {1: (8,), 2: (2, 4), 3: (2, 2, 2)}
_LARGEST = 4
"""Times the number of positions, what bfloat16 holds the sums of."""
_ROWS = 4


def probe_pool(
    subject: Subject, site: HeadTerm, provider: str, rng: np.random.Generator
) -> tuple[int, Failure | None]:
    """How many averages were exact, and the first that was not.

    None are run of a site that no pool follows, or whose pool takes maps of one size only: such a pool is
    known by its attributes alone.
    """
    affine = affine_of(site)
    extents = _EXTENTS.get(len(affine.kernel_size))
    if not affine.is_spread or affine.spots is None or not site.value or extents is None:
        return 0, None
    out, area = len(affine.weight), math.prod(extents)
    whole = rng.integers(-_LARGEST, _LARGEST + 1, (_ROWS, out, *extents)) * area
    maps = dataclasses.replace(site, value=affine.spots.result, shape=(out, *extents))
    try:
        found = subject.run_part(site, maps, whole.astype(affine.weight.dtype), provider)
    except (FxHeadError, RuntimeError, ValueError):
        return 0, None
    due = whole.reshape(_ROWS, out, -1).sum(axis=-1) // area
    if found.size != due.size:
        what = f"the pool behind it gives {found.shape}, not one value for each of {out} channels"
        return _ROWS, Failure(what=what, name=affine.weight_name)
    wide = found.astype(np.float64).reshape(due.shape)
    if (wide == due).all():
        return _ROWS, None
    row, channel = (int(i) for i in np.argwhere(wide != due)[0])
    return _ROWS, Failure(
        what="the pool behind it gives another average",
        name=affine.weight_name,
        index=(row, channel),
        expected=float(due[row, channel]),
        found=float(wide[row, channel]),
    )
