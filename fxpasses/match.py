"""A site together with what a rewrite of it needs, and the line of the model that it comes from."""

from __future__ import annotations

import dataclasses
import os
import re

from torch.fx import Node

from fxpasses.plan import WeightMove, WeightOrder
from fxpasses.report import Site
from fxpasses.typed_ops import Affine

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH_FOLDER = os.sep + "torch" + os.sep


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A site together with the graph objects that a rewrite of it needs."""

    site: Site
    node: Node
    op: Affine
    channels: int
    order: WeightOrder
    reads_pool: bool

    @property
    def move(self) -> WeightMove:
        """How the weight changes shape between the forms."""
        site = self.site
        return WeightMove(
            name=site.weight,
            linear_shape=(site.out_features, site.in_features),
            conv_shape=(site.out_features, self.channels, *site.kernel_size),
            order=self.order,
        )


def source_of(node: Node) -> str | None:
    """``"file.py:line"`` of the call that a node was traced from, or None."""
    trace = node.meta.get("stack_trace")
    if not isinstance(trace, str):
        return None
    frames = _FRAME.findall(trace)
    own = [frame for frame in frames if _TORCH_FOLDER not in frame[0]] or frames
    return f"{os.path.basename(own[-1][0])}:{own[-1][1]}" if own else None
