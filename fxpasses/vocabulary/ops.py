"""The typed ops: what a node does, whatever its spelling.

``Vocabulary.classify`` makes them; everything after it reads only them. ``Op`` is the union of them all and a
function that asks something of an op matches every one without a default, so that mypy names each question
that a new op has no answer to.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, TypeAlias

from torch import nn
from torch.fx import Node

from fxpasses.report import Form

BATCH = "N"
MATMUL = "@"
CHANNELS = "C"


@dataclasses.dataclass(frozen=True, slots=True)
class Opaque:
    """An op without an entry in the vocabulary."""


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeValue:
    """A size, a shape, or arithmetic on them; never a tensor."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdaptivePool:
    """Pool of ``rank`` spatial axes to ``output``; None keeps an axis's extent."""

    source: Node
    rank: int
    output: tuple[int | None, ...]
    average: bool


@dataclasses.dataclass(frozen=True, slots=True)
class WindowPool:
    """Pool over windows; ``covers`` where the kernel is written as the map's own extent.

    ``kernel`` is None where it is no plain number. ``plain`` windows are neither padded nor divided by
    anything but their own size.
    """

    source: Node
    rank: int
    covers: bool
    average: bool
    kernel: tuple[int, ...] | None = None
    plain: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Reduce:
    """Reduction over ``dims``; the spelling of a global pool as a mean, a sum or a maximum."""

    source: Node
    dims: tuple[int, ...]
    keepdim: bool
    average: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Flatten:
    """Axes ``start`` to ``end`` merged."""

    source: Node
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Unflatten:
    """Axis ``dim`` split into ``sizes``."""

    source: Node
    dim: int
    sizes: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """``view`` or ``reshape`` to ``sizes``: integers, -1, nodes that hold sizes, ``BATCH``, ``CHANNELS``."""

    source: Node
    sizes: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Squeeze:
    """Axes of extent 1 dropped; ``dims`` None drops every one of them."""

    source: Node
    dims: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Unsqueeze:
    """An axis of extent 1 inserted at ``dim``."""

    source: Node
    dim: int


@dataclasses.dataclass(frozen=True, slots=True)
class Permute:
    """Axes reordered; ``dims`` of length 2 with ``swap`` exchanges two axes."""

    source: Node
    dims: tuple[int, ...]
    swap: bool

    def order(self, rank: int) -> tuple[int, ...] | None:
        """Which of so many axes each axis is afterwards; None where it reorders another number of axes."""
        order = [*range(rank)]
        if not all(isinstance(dim, int) and -rank <= dim < rank for dim in self.dims):
            return None
        if self.swap:
            first, second = self.dims
            order[first], order[second] = order[second], order[first]
            return tuple(order)
        dims = tuple(dim % rank for dim in self.dims)
        return dims if sorted(dims) == order else None


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """``x[items]`` with integers, slices, None and Ellipsis."""

    source: Node
    items: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Concat:
    """Tensors joined along ``dim``."""

    sources: tuple[Node, ...]
    dim: int


@dataclasses.dataclass(frozen=True, slots=True)
class Expand:
    """``expand`` to ``sizes``."""

    source: Node
    sizes: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unfold:
    """The patches of a map as columns, ``[N, C, H, W]`` to ``[N, C·kh·kw, L]`` (im2col).

    Each of the numbers has an entry for the height and one for the width.
    """

    source: Node
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
    """Columns of one position each as a map again, ``[N, C, L]`` to ``[N, C, *sizes]``."""

    source: Node
    sizes: tuple[Any, ...]


class Role(enum.Enum):
    """What is known of a function of every element, as far as a mean over positions is concerned."""

    OTHER = enum.auto()
    LINEAR = enum.auto()  # of its first operand: a cast, a copy, a change of sign
    SUM = enum.auto()  # of its operands, each times a number
    PRODUCT = enum.auto()  # of its operands
    QUOTIENT = enum.auto()  # of its first operand by the others
    DROPOUT = enum.auto()
    BATCH_NORM = enum.auto()


class Plain(enum.Enum):
    """What a function of every element does exactly, where that is known."""

    SAME = enum.auto()  # gives its operand itself, or a copy where memory is in another order
    COPY = enum.auto()  # gives a copy of its operand
    SUM = enum.auto()  # adds its two operands


@dataclasses.dataclass(frozen=True, slots=True)
class Elementwise:
    """The same function of every element; ``sources`` are all node operands.

    ``channels`` marks a function that also looks at the channel axis, axis 1: it is the same on
    ``[N, C]`` and ``[N, C, 1, 1]``, not on a k×k grid. ``module_rank`` is set where the module's
    class names the rank (BatchNorm1d, BatchNorm2d) and has to change with it. ``trains`` where a
    dropout or a batch norm is in train mode, or may be; ``mixes`` where it looks at other positions, too.
    ``plain`` is set where no number changes what it does.
    """

    sources: tuple[Node, ...]
    inplace: bool = False
    channels: bool = False
    module_rank: int | None = None
    role: Role = Role.OTHER
    trains: bool = False
    mixes: bool = False
    plain: Plain | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureNorm:
    """A function along an axis (LayerNorm, softmax(dim=-1)); keeps the layout, is not crossed.

    ``is_last`` where it is one of the last axis alone. ``role`` and ``trains`` are those of
    ``Elementwise``, for dropouts of whole channels.
    """

    source: Node
    is_last: bool = False
    role: Role = Role.OTHER
    trains: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """A matrix product that is not written as a Linear; a site only where it reads columns.

    ``equation`` is einsum's, or ``MATMUL`` for the product of two operands over the last axis of the first
    and the last but one of the second; empty for any other product.
    """

    sources: tuple[Node, ...]
    equation: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Subgraph:
    """A call of other graphs (torch.cond, autocast and no_grad regions), which the passes do not enter.

    Attributes:
        paths: the modules that are these graphs.
        is_affine: whether an affine function is known to be in one that is no module.
    """

    paths: tuple[str, ...] = ()
    is_affine: bool = False


class WeightSource(enum.Enum):
    """Where an affine op's weight comes from."""

    PARAMETER = enum.auto()
    INPUT = enum.auto()
    COMPUTED = enum.auto()
    PACKED = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """A Linear or a convolution, as a module or as a function of a parameter.

    ``weight`` and ``bias`` are state-dict names, and ``weight_node`` and ``bias_node`` the nodes that
    read them where the op is a function; ``rank`` is 0 for a Linear. ``stride``, ``padding`` and
    ``dilation`` have one entry per spatial axis; ``same`` where the padding is as much as keeps the extents,
    and ``padding`` then only says that there is some.
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
    same: bool = False
    padding_mode: str = "zeros"

    def name(self, node: Node) -> str:
        """Module path of the site, or of the parameter that it reads."""
        if node.op == "call_module":
            return str(node.target)
        return (self.weight or node.name).removesuffix(".weight")


ViewOp: TypeAlias = Flatten | Unflatten | View | Squeeze | Unsqueeze | Permute | Index
VIEWS = (Flatten, Unflatten, View, Squeeze, Unsqueeze, Permute, Index)
POOLS = (AdaptivePool, WindowPool, Reduce)

Op: TypeAlias = (
    Opaque
    | ShapeValue
    | AdaptivePool
    | WindowPool
    | Reduce
    | Flatten
    | Unflatten
    | View
    | Squeeze
    | Unsqueeze
    | Permute
    | Index
    | Concat
    | Expand
    | Unfold
    | Fold
    | Elementwise
    | FeatureNorm
    | Product
    | Subgraph
    | Affine
)


def is_copy(op: Op) -> bool:
    """Whether an op gives the numbers of its operand as they are."""
    return isinstance(op, Elementwise) and op.plain in (Plain.SAME, Plain.COPY)


def operands(op: Op) -> tuple[Node, ...]:
    """The values that an op reads; of an affine op not its weights, of an opaque one none that it tells."""
    match op:
        case Elementwise() | Concat() | Product():
            return op.sources
        case AdaptivePool() | WindowPool() | Reduce() | Affine() | FeatureNorm() | Unfold() | Fold():
            return (op.source,)
        case Flatten() | Unflatten() | View() | Squeeze() | Unsqueeze() | Permute() | Index() | Expand():
            return (op.source,)
        case Opaque() | ShapeValue() | Subgraph():
            return ()


def memory_of(op: Op) -> Node | None:
    """The value whose memory the result of an op may share; None where it has memory of its own."""
    match op:
        case Flatten() | Unflatten() | View() | Squeeze() | Unsqueeze() | Permute() | Index() | Expand():
            return op.source
        case Elementwise(inplace=False, plain=Plain.COPY):
            return None
        case Elementwise(sources=(first, *_)) if op.inplace or op.role in (Role.LINEAR, Role.DROPOUT):
            return first  # a cast to the type that it has, a dropout that is switched off
        case FeatureNorm(role=Role.DROPOUT):
            return op.source
        case Elementwise() | FeatureNorm() | Concat() | Unfold() | Fold() | Affine() | Product():
            return None
        case AdaptivePool() | WindowPool() | Reduce() | Opaque() | ShapeValue() | Subgraph():
            return None
