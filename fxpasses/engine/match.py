"""A site together with what a rewrite of it needs, and the line of the model that it comes from."""

from __future__ import annotations

import dataclasses
import math
import os
import re

from torch.fx import Node

from fxpasses.report import Form, Miss, Problem, Scope, Site
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import Affine
from fxpasses.weights.move import WeightMove, WeightOrder

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

    def missed(self, problem: Problem) -> Miss:
        """The site as one that keeps its form."""
        return missed(self.node, self.site.name, self.site.form, problem)

    def transposes(self) -> list[Node]:
        """The nodes that transpose the weight for a matrix product."""
        weight, reads = self.op.weight_node, self.node.all_input_nodes
        return [] if weight is None else [node for node in reads if aten.untransposed(node) is weight]


def matched(
    node: Node,
    op: Affine,
    *,
    form: Form,
    scope: Scope,
    out_features: int,
    channels: int,
    kernel: tuple[int, ...],
    order: WeightOrder = WeightOrder.CHANNELS_FIRST,
    reads_pool: bool = False,
) -> Match:
    """An affine op as a site in ``form``; the kernel is the one of its convolution."""
    assert op.weight is not None, "the guards let only parameters through"
    site = Site(
        name=op.name(node),
        node=node.name,
        form=form,
        scope=scope,
        weight=op.weight,
        bias=op.bias,
        in_features=channels * math.prod(kernel),
        out_features=out_features,
        kernel_size=kernel,
        source=source_of(node),
    )
    return Match(site=site, node=node, op=op, channels=channels, order=order, reads_pool=reads_pool)


def missed(node: Node, name: str, form: Form, problem: Problem) -> Miss:
    """A candidate in its form, with what stands in the way."""
    return Miss(
        code=problem.code, name=name, node=node.name, form=form, source=source_of(node),
        reason=problem.reason, fix=problem.fix,
    )  # fmt: skip


def source_of(node: Node) -> str | None:
    """``"file.py:line"`` of the call that a node was traced from, or None."""
    trace = node.meta.get("stack_trace")
    if not isinstance(trace, str):
        return None
    innermost: re.Match[str] | None = None
    end = len(trace)
    while (end := trace.rfind('File "', 0, end)) >= 0:  # from the inside out: a trace is long
        frame = _FRAME.match(trace, end)
        if frame is not None and _TORCH_FOLDER not in frame[1]:
            return f"{os.path.basename(frame[1])}:{frame[2]}"
        innermost = innermost or frame
    return None if innermost is None else f"{os.path.basename(innermost[1])}:{innermost[2]}"
