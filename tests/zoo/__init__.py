"""The zoo: one model for every spelling of a head, and one for every reason to refuse one.

``ENTRIES`` can be rewritten, ``REFUSALS`` cannot; an ``Entry`` says what is true of its model.
"""

from __future__ import annotations

import torch
from torch import nn

from zoo import refusals
from zoo.bridges import HEADS
from zoo.entry import Entry
from zoo.further import FURTHER
from zoo.ranks import RANKS, TOKEN_HEADS
from zoo.refused_weights import REFUSED_WEIGHTS
from zoo.spellings import SPELLINGS
from zoo.structures import SCOPES, STRUCTURES
from zoo.weights import WEIGHTS

__all__ = ["ENTRIES", "REFUSALS", "SPELLINGS", "Entry", "build", "entry"]

ENTRIES: tuple[Entry, ...] = (
    *HEADS,
    *STRUCTURES,
    *SCOPES,
    *WEIGHTS,
    *RANKS,
    *TOKEN_HEADS,
    *FURTHER,
    *SPELLINGS,
)
REFUSALS: tuple[Entry, ...] = (*refusals.REFUSALS, *REFUSED_WEIGHTS)
_BY_NAME = {one.name: one for one in (*ENTRIES, *REFUSALS)}
assert len(_BY_NAME) == len(ENTRIES) + len(REFUSALS), "two entries of the zoo have one name"


def entry(name: str) -> Entry:
    """The entry of that name."""
    return _BY_NAME[name]


def build(which: Entry | str, dtype: torch.dtype = torch.float64, *, train: bool = False) -> nn.Module:
    """A new copy of an entry's model, in ``dtype``, in eval mode unless ``train``."""
    found = entry(which) if isinstance(which, str) else which
    model = found.make()
    return (model.to(dtype) if found.runs else model).train(train)
