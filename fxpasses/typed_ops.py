"""The typed ops: what a node does, whatever its spelling.

``ops.Vocabulary.classify`` makes them; everything after it reads only them.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from torch import nn
from torch.fx import Node

from fxpasses.report import Form

BATCH = "N"
CHANNELS = "C"


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
    """What one node does, in typed terms."""


@dataclasses.dataclass(frozen=True, slots=True)
class Opaque(Op):
    """An op without an entry in the vocabulary."""


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeValue(Op):
    """A size, a shape, or arithmetic on them; never a tensor."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdaptivePool(Op):
    """Pool of ``rank`` spatial axes to ``output``; None keeps an axis's extent."""

    source: Node
    rank: int
    output: tuple[int | None, ...]
    average: bool


@dataclasses.dataclass(frozen=True, slots=True)
class WindowPool(Op):
    """Pool over windows; ``covers`` where the kernel is written as the map's own extent."""

    source: Node
    rank: int
    covers: bool
    average: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Reduce(Op):
    """Reduction over ``dims``; the spelling of a global pool as a mean, a sum or a maximum."""

    source: Node
    dims: tuple[int, ...]
    keepdim: bool
    average: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Flatten(Op):
    """Axes ``start`` to ``end`` merged."""

    source: Node
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Unflatten(Op):
    """Axis ``dim`` split into ``sizes``."""

    source: Node
    dim: int
    sizes: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class View(Op):
    """``view`` or ``reshape`` to ``sizes``: integers, -1, nodes that hold sizes, ``BATCH``, ``CHANNELS``."""

    source: Node
    sizes: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Squeeze(Op):
    """Axes of extent 1 dropped; ``dims`` None drops every one of them."""

    source: Node
    dims: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Unsqueeze(Op):
    """An axis of extent 1 inserted at ``dim``."""

    source: Node
    dim: int


@dataclasses.dataclass(frozen=True, slots=True)
class Permute(Op):
    """Axes reordered; ``dims`` of length 2 with ``swap`` exchanges two axes."""

    source: Node
    dims: tuple[int, ...]
    swap: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Index(Op):
    """``x[items]`` with integers, slices, None and Ellipsis."""

    source: Node
    items: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Concat(Op):
    """Tensors joined along ``dim``."""

    sources: tuple[Node, ...]
    dim: int


@dataclasses.dataclass(frozen=True, slots=True)
class Elementwise(Op):
    """The same function of every element; ``sources`` are all node operands.

    ``channels`` marks a function that also looks at the channel axis, axis 1: it is the same on
    ``[N, C]`` and ``[N, C, 1, 1]``, not on a k×k grid. ``module_rank`` is set where the module's
    class names the rank (BatchNorm1d, BatchNorm2d) and has to change with it.
    """

    sources: tuple[Node, ...]
    inplace: bool = False
    channels: bool = False
    module_rank: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureNorm(Op):
    """A function along an axis (LayerNorm, softmax(dim=-1)); keeps the layout, is not crossed."""

    source: Node


@dataclasses.dataclass(frozen=True, slots=True)
class Product(Op):
    """A matrix product that is not written as a Linear; never a site."""

    sources: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Subgraph(Op):
    """A call of other graphs (torch.cond, autocast and no_grad regions), which the passes do not enter."""

    paths: tuple[str, ...]


class WeightSource(enum.Enum):
    """Where an affine op's weight comes from."""

    PARAMETER = enum.auto()
    INPUT = enum.auto()
    COMPUTED = enum.auto()
    PACKED = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Op):
    """A Linear or a convolution, as a module or as a function of a parameter.

    ``weight`` and ``bias`` are state-dict names, and ``weight_node`` and ``bias_node`` the nodes that
    read them where the op is a function; ``rank`` is 0 for a Linear. ``stride``, ``padding`` and
    ``dilation`` have one entry per spatial axis.
    """

    source: Node
    form: Form
    rank: int
    weight: str | None = None
    bias: str | None = None
    weight_source: WeightSource = WeightSource.PARAMETER
    weight_node: Node | None = None
    bias_node: Node | None = None
    module: nn.Module | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    def name(self, node: Node) -> str:
        """Module path of the site, or of the parameter that it reads."""
        if node.op == "call_module":
            return str(node.target)
        return (self.weight or node.name).removesuffix(".weight")


VIEWS = (Flatten, Unflatten, View, Squeeze, Unsqueeze, Permute, Index)
POOLS = (AdaptivePool, WindowPool, Reduce)
