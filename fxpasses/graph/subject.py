"""What the passes need of an opened model, whatever it was opened from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn
from torch.fx import Graph

from fxpasses.report import TraceInfo


class EditableModel(Protocol):
    """A graph that may be edited, and the tree that holds its parameters."""

    @property
    def graph(self) -> Graph:
        """The graph."""

    @property
    def root(self) -> nn.Module:
        """A tree that holds the parameters under their names."""

    @property
    def lifted(self) -> Mapping[str, str]:
        """Names of parameters that are inputs of the graph, by placeholder name."""

    @property
    def info(self) -> TraceInfo:
        """How the graph was obtained."""
