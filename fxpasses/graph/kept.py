"""Where a graph keeps the records of its edits: on the module, where every copy has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch.fx import GraphModule


class Entry(Protocol):
    """A record that can be kept; ``engine.undo`` has the only kind."""

    def to_data(self) -> dict[str, Any]:
        """Plain data, which survives ``copy.deepcopy`` and pickling without this package."""


ATTRIBUTE = "_fxhead_undo"


def store(module: GraphModule, records: Iterable[Entry]) -> None:
    """Keeps records on a GraphModule, where deepcopy and pickling carry them along."""
    data = [entry.to_data() for entry in records]
    module.meta[ATTRIBUTE] = data
    setattr(module, ATTRIBUTE, data)
