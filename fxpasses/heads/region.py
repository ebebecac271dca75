"""The pooled region of a graph: every value computed from pooled values alone, with its layout.

It starts at the pools and follows their users in graph order; nothing else is looked at. A value that
meets a feature map again leaves the region (squeeze-excite), so that the region stays small however
large the graph is.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn
from torch.fx import Graph, Node

from fxpasses.engine.refusals import altered_problem
from fxpasses.graph.shapes import Shape, Shapes, static_extent
from fxpasses.graph.tree import is_uninitialized
from fxpasses.heads import layout as layouts
from fxpasses.heads.layout import Axis, Layout, flat_layout, map_layout
from fxpasses.miss_codes import MissCode
from fxpasses.private_names import ConvNd
from fxpasses.report import Form, Problem
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.constants import constant_of
from fxpasses.vocabulary.handlers import MAX_RANK
from fxpasses.vocabulary.ops import (
    CHANNELS,
    POOLS,
    VIEWS,
    AdaptivePool,
    Affine,
    Concat,
    Elementwise,
    Expand,
    FeatureNorm,
    Flatten,
    Fold,
    Index,
    Op,
    Opaque,
    Permute,
    Product,
    Reduce,
    ShapeValue,
    Squeeze,
    Subgraph,
    Unflatten,
    Unfold,
    Unsqueeze,
    View,
    WindowPool,
)
from fxpasses.vocabulary.sizes import is_shape_value, settled, value_of
from fxpasses.vocabulary.vocabulary import Vocabulary

_MAX_WALK = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PooledValue:
    """One pooled value.

    Attributes:
        layout: what its axes mean, or None where that is not known.
        problem: why the layout is not known, where a reason was found on the way.
        pool: the pool that it comes from; the first one, where there are several.
    """

    node: Node
    op: Op
    layout: Layout | None
    problem: Problem | None = None
    pool: Node


@dataclasses.dataclass(slots=True)
class Region:
    """The pooled values of a graph, in graph order.

    Attributes:
        is_presumed: whether a layout was presumed that example inputs would settle.
    """

    values: dict[Node, PooledValue] = dataclasses.field(default_factory=dict)
    is_presumed: bool = False
    _by_pool: dict[Node, list[PooledValue]] = dataclasses.field(default_factory=dict)

    def of_pool(self, pool: Node) -> list[PooledValue]:
        """The values that come from a pool, in graph order; of a region that is whole."""
        if not self._by_pool:
            for value in self.values.values():
                self._by_pool.setdefault(value.pool, []).append(value)
        return self._by_pool.get(pool, [])


def fixed_shape(node: Node) -> Shape | None:
    """The shape of the ``val`` that ``torch.export`` leaves on a node; None for a symbolic size."""
    value = value_of(node)
    if value is None:
        return None
    return tuple([extent if type(extent) is int else static_extent(extent) for extent in value.shape])


def scan(
    graph: Graph,
    vocabulary: Vocabulary,
    shapes: Shapes | None = None,
    extents: Mapping[str, tuple[int, ...]] | None = None,
) -> Region:
    """The pooled region of ``graph``."""
    return _Scanner(graph, vocabulary, shapes, extents or {}).run()


class _Scanner:
    def __init__(
        self,
        graph: Graph,
        vocabulary: Vocabulary,
        shapes: Shapes | None,
        extents: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.extents = extents
        self.is_program = shapes is None  # sizes that are plain numbers are part of an exported program
        self.graph = graph
        self.vocabulary = vocabulary
        self.shape_of: Callable[[Node], Shape | None] = fixed_shape if shapes is None else shapes.get
        self.region = Region()
        self.constant: dict[Node, bool] = {}

    def run(self) -> Region:
        pending = self.vocabulary.pools(self.graph)
        heapq.heapify(pending)
        queued = set(pending)
        values = self.region.values
        while pending:
            node = heapq.heappop(pending)
            op = self.vocabulary.classify(node)
            reads_pooled = not values.keys().isdisjoint(node.all_input_nodes)
            value = self._follow(node, op) if reads_pooled else self._start(node, op)
            if value is None:
                continue
            values[node] = value
            for user in node.users:
                if user not in queued:
                    queued.add(user)
                    heapq.heappush(pending, user)
        return self.region

    # --- where a region starts

    def _start(self, node: Node, op: Op) -> PooledValue | None:
        """The value of a pool that reads a feature map, or None where it is no pool of the map."""
        layout = None
        if isinstance(op, AdaptivePool):
            layout = self._adaptive(node, op)
        elif isinstance(op, WindowPool):
            layout = self._window(node, op)
        elif isinstance(op, Reduce):
            layout = self._reduce(node, op)
        if layout is None:
            return None
        layout = Layout(layout.axes, layout.channels, layout.extents, self._batch(node))
        return PooledValue(node=node, op=op, layout=layout, pool=node)

    def _batch(self, node: Node) -> int | None:
        """The batch size where the program fixes it."""
        shape = self.shape_of(node) if self.is_program else None
        return shape[0] if shape else None

    def _adaptive(self, node: Node, op: AdaptivePool) -> Layout:
        shape = self.shape_of(node)
        if shape is not None and len(shape) == op.rank + 2:
            return map_layout(shape[1], shape[2:])
        output = self.extents.get(node.name, op.output) if None in op.output else op.output
        self.region.is_presumed |= None in output
        return map_layout(self._channels(op.source), output)

    def _window(self, node: Node, op: WindowPool) -> Layout | None:
        shape = self.shape_of(node)
        is_point = shape is not None and len(shape) == op.rank + 2 and set(shape[2:]) == {1}
        if shape is not None and not op.covers:
            return map_layout(shape[1], shape[2:]) if is_point else None
        channels = self._channels(op.source)
        if op.covers:
            return map_layout(channels, (1,) * op.rank)
        if node.name in self.extents:
            return map_layout(channels, self.extents[node.name])
        if not self._feeds_head(node, channels):
            return None
        self.region.is_presumed = True
        return map_layout(channels, (None,) * op.rank)

    def _reduce(self, node: Node, op: Reduce) -> Layout | None:
        shape = self.shape_of(op.source)
        if shape is not None and len(shape) < 2:
            return None  # a vector or a number is no map, and has no channels
        known = self._map_of(op.source) if shape is None or len(shape) == 2 else None
        count = len(shape) if shape is not None else (known[0] + 2 if known else None)
        channels = shape[1] if shape is not None and count != 2 else (known[1] if known else None)
        chain = _reductions_after(node, self.vocabulary)
        rank = (count or 2 + sum(len(step.dims) for step in (op, *chain))) - 2
        layout = self._reduced_map(op, chain, channels, rank)
        if layout is not None:
            self.region.is_presumed |= count is None
            return layout
        if self._map_of(op.source) or not _is_tokens(op.dims, count) or not self._feeds_head(node):
            return None
        self.region.is_presumed |= count is None
        rank = len(op.dims)
        pooled = flat_layout(shape[-1] if shape is not None else None, rank)
        return pooled.with_axes((("N",), *((),) * rank, (CHANNELS,))) if op.keepdim else pooled

    def _reduced_map(self, op: Reduce, chain: list[Reduce], channels: int | None, rank: int) -> Layout | None:
        """Layout after a reduction that, with those right after it, collapses a whole map."""
        if not 1 <= rank <= MAX_RANK:
            return None
        first = last = layouts.reduced(map_layout(channels, (None,) * rank), op.dims, keepdim=op.keepdim)
        for step in chain:
            last = last and layouts.reduced(last, step.dims, keepdim=step.keepdim)
        return first if last is not None and last.is_point else None

    def _channels(self, source: Node) -> int | None:
        shape = self.shape_of(source)
        if shape is not None and len(shape) > 1:
            return shape[1]
        known = self._map_of(source)
        return known[1] if known else None

    def _map_of(self, node: Node) -> tuple[int, int | None] | None:
        """Rank and channels of a feature map as the modules upstream say them, or None."""
        channels: int | None = None
        for _ in range(_MAX_WALK):
            if node.op == "call_module":
                module = self.vocabulary.module(str(node.target))
                if isinstance(module, ConvNd):
                    return module.weight.ndim - 2, channels or module.out_channels
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                    return (2 if isinstance(module, nn.BatchNorm2d) else 3), channels or module.num_features
                if isinstance(module, nn.BatchNorm1d):
                    channels = channels or module.num_features
            op = self.vocabulary.classify(node)
            if isinstance(op, (AdaptivePool, WindowPool)):
                node = op.source
            elif (
                isinstance(op, Affine)
                and op.rank
                and op.weight_source.name == "PARAMETER"
                and not op.transposed
            ):
                weight = self._weight(op)
                return None if weight is None else (op.rank, channels or weight.shape[0])
            elif isinstance(op, Elementwise) and op.sources:
                tensors = [source for source in op.sources if source.op != "get_attr"]
                if not tensors:
                    return None
                node = tensors[0]
            else:
                return None
        return None

    def _weight(self, op: Affine) -> torch.Tensor | None:
        weight = self.vocabulary.weight(op)
        return None if is_uninitialized(weight) else weight

    def _feeds_head(self, node: Node, channels: int | None = None) -> bool:
        """Whether the first affine op after a would-be pool is a Linear, or a last convolution.

        A Linear that takes more features than there are channels reads a map that was not collapsed.
        """
        pending = [node]  # grows while it is read, where several heads share the pool
        for place in itertools.islice(pending, _MAX_WALK):
            users = [
                user for user in place.users if not isinstance(self.vocabulary.classify(user), ShapeValue)
            ]
            for user in users:
                op = self.vocabulary.classify(user)
                if isinstance(op, Affine) and op.form is Form.LINEAR:
                    weight = self._weight(op)
                    return weight is None or channels is None or weight.shape[-1] <= channels
                if isinstance(op, Affine):
                    return is_last_affine(user, self.vocabulary)
            pending += [
                user
                for user in users
                if isinstance(self.vocabulary.classify(user), (*VIEWS, Concat, Elementwise, FeatureNorm))
            ]
        return False

    # --- how it goes on

    def _follow(self, node: Node, op: Op) -> PooledValue | None:
        """The value of a node that reads pooled values, or None where it meets anything else."""
        if node.op == "output" or isinstance(op, ShapeValue) or aten.is_statistic(node):
            return None
        region = self.region
        pooled = [region.values[source] for source in node.all_input_nodes if source in region.values]
        if not pooled:
            return None
        others = [source for source in node.all_input_nodes if source not in region.values]
        only_reads = isinstance(op, Affine) or (isinstance(op, Elementwise) and op.channels)
        if not only_reads and not all(self._is_constant(source) for source in others):
            return self._joined(node, op, pooled)
        problem = next((value.problem for value in pooled if value.problem), None)
        layout: Layout | Problem | None = None
        if problem is None and all(value.layout for value in pooled):
            layout = self._layout(node, op, pooled, others)
        if isinstance(layout, Problem):
            layout, problem = None, layout
        is_view_of_other = isinstance(op, VIEWS) and pooled[0].layout is not None
        if layout is None and problem is None and not is_view_of_other:
            layout = self._from_shape(node, pooled[0])
        if layout is None and problem is None:
            problem = altered_problem(node, self.vocabulary)
        if problem is not None or layout is None:
            region.is_presumed = True
        return PooledValue(node=node, op=op, layout=layout, problem=problem, pool=pooled[0].pool)

    def _is_constant(self, node: Node) -> bool:
        """Whether a value does not depend on the input, or is only a size of it."""
        return settled(node, self.constant, self._settle_constant)

    def _settle_constant(self, node: Node, known: dict[Node, bool]) -> Node | None:
        """Notes whether a node is constant; else gives the operand to be asked first."""
        if self.vocabulary.tensor_name(node) is not None or is_shape_value(node):
            known[node] = True
        elif node.op in ("placeholder", "output", "call_module"):
            known[node] = False
        else:
            for source in node.all_input_nodes:
                if source not in known:
                    return source
                if not known[source]:
                    break
            known[node] = all(known.get(source, False) for source in node.all_input_nodes)
        return None

    def _joined(self, node: Node, op: Op, pooled: list[PooledValue]) -> PooledValue | None:
        """A flat value joined with another vector: ``cat`` forces all operands to one rank."""
        first = pooled[0]
        if not isinstance(op, Concat) or first.layout is None or first.layout.order is None:
            return None
        if op.dim not in (1, -1):
            return None
        shape = self.shape_of(node)
        channels = shape[1] if shape is not None else None
        return PooledValue(
            node=node,
            op=op,
            layout=flat_layout(channels, first.layout.rank, first.layout.batch),
            pool=first.pool,
        )

    def _from_shape(self, node: Node, origin: PooledValue) -> Layout | None:
        shape = self.shape_of(node)
        if shape is None or len(shape) != 2:
            return None
        known = self.region.values[origin.pool].layout
        return flat_layout(shape[1], known.rank if known else 2, self._batch(node))

    def _layout(
        self, node: Node, op: Op, pooled: list[PooledValue], others: list[Node]
    ) -> Layout | Problem | None:
        first = pooled[0].layout
        assert first is not None
        match op:
            case Flatten() | Unflatten() | View() | Squeeze() | Unsqueeze() | Permute() | Index():
                found = self._disguised(first, op, pooled[0]) or layouts.view(first, op)
                return None if self._is_other(first, found, node) else found
            case FeatureNorm():
                return first
            case Elementwise():
                return self._elementwise(first, pooled, [] if op.channels else others)
            case Concat():
                known = [value.layout for value in pooled if value.layout]
                return _concat(op, known, len(op.sources) == len(pooled))
            case Affine():
                return self._affine(first, op)
            case AdaptivePool():
                is_known = first.is_map and op.rank == first.rank and None not in op.output
                return map_layout(first.channels, op.output, first.batch) if is_known else None
            case Reduce():
                return layouts.reduced(first, op.dims, keepdim=op.keepdim)
            case (
                WindowPool() | Expand() | Unfold() | Fold() | Product() | Opaque() | ShapeValue() | Subgraph()
            ):
                return None

    def _is_other(self, first: Layout, found: Layout | Problem, node: Node) -> bool:
        """Whether a view is known to be of another shape than its sizes say if they are the map's.

        Those that unfold views of an object from the batch look like the map's own.
        """
        shape = self.shape_of(node)
        if shape is None:
            return False
        if isinstance(found, Problem):
            is_unfolded = len(shape) > 2 and shape[-1] == first.features
            return found.code is MissCode.UNKNOWN_LAYOUT or (
                is_unfolded and found.code is MissCode.BATCH_FLATTENED
            )
        return len(shape) != len(found.axes) or any(
            None not in (said, extent) and said != extent
            for said, extent in zip(map(found.extent, found.axes), shape, strict=True)
        )

    def _disguised(self, first: Layout, op: Op, value: PooledValue) -> Layout | None:
        """The map of rank 1 after the squeeze that takes back the unsqueeze before its pool.

        Decompositions write a pool of rank 1 as one of rank 2 between the two.
        """
        if not isinstance(op, Squeeze) or not first.is_map or first.rank != 2 or op.dims not in ((2,), (-2,)):
            return None
        if self.shape_of(value.node) is None:
            return None
        pool = self.region.values[value.pool].op
        before = self.vocabulary.classify(pool.source) if isinstance(pool, POOLS) else None
        is_undone = isinstance(before, Unsqueeze) and before.dim in (2, -2) and first.extents[0] == 1
        return map_layout(first.channels, first.extents[1:], first.batch) if is_undone else None

    def _elementwise(self, first: Layout, pooled: list[PooledValue], others: list[Node]) -> Layout | None:
        for value in pooled[1:]:
            if value.layout is None or (value.layout.axes, value.layout.extents) != (
                first.axes,
                first.extents,
            ):
                return None
        for source in others:
            shape = constant_shape(source, self.vocabulary)
            if shape is None or len(shape) > len(first.axes):
                return None
        return first

    def _affine(self, first: Layout, op: Affine) -> Layout | None:
        weight = self._weight(op)
        out = getattr(op.module, "out_features", getattr(op.module, "out_channels", None))
        if weight is not None and weight.ndim == (2 if op.form is Form.LINEAR else op.rank + 2):
            out = int(weight.shape[1 if op.transposed else 0])
        if op.form is Form.LINEAR:
            if first.order is not None:
                return flat_layout(out, first.rank, first.batch)
            return (
                dataclasses.replace(first, channels=out)
                if first.is_point and first.axes[-1] == ("C",)
                else None
            )
        if not first.is_map or op.rank != first.rank or weight is None or op.transposed:
            return None
        extents = conv_extents(first.extents, tuple(weight.shape[2:]), op)
        return map_layout(out, extents, first.batch)


def conv_extents(
    extents: tuple[int | None, ...], kernel: tuple[int, ...], op: Affine
) -> tuple[int | None, ...]:
    """Spatial extents after a convolution; see the shape formula of ``torch.nn.Conv2d``."""
    return tuple(
        None
        if extent is None
        else (extent + 2 * op.padding[axis] - op.dilation[axis] * (kernel[axis] - 1) - 1) // op.stride[axis]
        + 1
        for axis, extent in enumerate(extents)
    )


def _reductions_after(node: Node, vocabulary: Vocabulary) -> list[Reduce]:
    """The reductions that follow one another right after a node: ``x.mean(3).mean(2)``."""
    chain: list[Reduce] = []
    while len(node.users) == 1 and len(chain) < MAX_RANK:
        node = next(iter(node.users))
        op = vocabulary.classify(node)
        if not isinstance(op, Reduce):
            break
        chain.append(op)
    return chain


def _is_tokens(dims: tuple[int, ...], count: int | None) -> bool:
    """Whether ``dims`` are all axes of ``[N, *k, C]`` between batch and channels."""
    rank = len(dims)
    if count is not None:
        return count >= 3 and sorted(dim % count for dim in dims) == list(range(1, count - 1))
    return sorted(dims) in (list(range(1, 1 + rank)), list(range(-1 - rank, -1)))


def _concat(op: Concat, operands: list[Layout], is_all_pooled: bool) -> Layout | None:
    first = operands[0]
    axis = first.axes[op.dim] if -len(first.axes) <= op.dim < len(first.axes) else None
    alike = all(operand.axes == first.axes and operand.is_point for operand in operands)
    if not is_all_pooled or not alike or axis != (CHANNELS,):
        return None
    known = [operand.channels for operand in operands]
    channels = None if None in known else sum(value or 0 for value in known)
    return dataclasses.replace(first, channels=channels)


def constant_shape(node: Node, vocabulary: Vocabulary) -> Shape | None:
    """Shape of a value that is no input's (a size is a scalar), or None where it is not known.

    An exported program says it, None standing for a symbolic size.
    """
    is_own, shape = _own_shape(node, vocabulary)
    return shape if is_own else settled(node, vocabulary.constant_shapes, partial(_settle_shape, vocabulary))


def _own_shape(node: Node, vocabulary: Vocabulary) -> tuple[bool, Shape | None]:
    """Whether a node says its shape itself, and the shape."""
    name = vocabulary.tensor_name(node)
    if name is not None:
        tensor = vocabulary.tensor(name)
        return True, None if tensor is None or is_uninitialized(tensor) else tuple(tensor.shape)
    if is_shape_value(node):
        return True, ()
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return True, tuple(extent if isinstance(extent, int) else None for extent in value.shape)
    return False, None


def _settle_shape(vocabulary: Vocabulary, node: Node, known: dict[Node, Shape | None]) -> Node | None:
    """Notes the shape of a function of constants; else gives the operand to be asked first.

    A view of a parameter has the shape of that view.
    """
    op = vocabulary.classify(node)
    shapes: list[Shape] = []
    if isinstance(op, VIEWS) and (read := constant_of(node, vocabulary)) is not None:
        shapes.append(tuple(read.view.shape))
    elif isinstance(op, Elementwise):  # torch.rand of sizes is none, among others
        for source in node.all_input_nodes:
            is_own, shape = _own_shape(source, vocabulary)
            if not is_own and source not in known:
                return source
            shape = shape if is_own else known[source]
            if shape is None or None in shape:
                shapes = []
                break
            shapes.append(shape)
    known[node] = tuple(torch.broadcast_shapes(*shapes)) if shapes else None  # type: ignore[no-untyped-call]
    return None


def lies_along_channels(shape: Shape | None, axes: tuple[Axis, ...]) -> bool:
    """Whether a constant has one number for each channel of a value with these axes, or one for all."""
    if shape is None or len(shape) > len(axes):
        return False
    padded = (*(1,) * (len(axes) - len(shape)), *shape)
    return all(
        extent == 1 or (axis == (CHANNELS,) and extent is not None)
        for extent, axis in zip(padded, axes, strict=True)
    )


def constant_operands(
    value: PooledValue, values: Mapping[Node, PooledValue], vocabulary: Vocabulary
) -> dict[Node, Shape]:
    """The shapes of the constants that a function of a pooled value reads, by node."""
    found = {
        source: constant_shape(source, vocabulary)
        for source in value.node.all_input_nodes
        if source not in values
    }
    return {source: shape for source, shape in found.items() if shape is not None}


def is_last_affine(node: Node, vocabulary: Vocabulary) -> bool:
    """Whether no other affine op stands between a node and the output."""
    seen: set[Node] = set()
    pending = list(node.users)
    reaches = False
    while pending:
        user = pending.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.op == "output":
            reaches = True
        elif isinstance(vocabulary.classify(user), Affine) or len(seen) > _MAX_WALK:
            return False
        pending.extend(user.users)
    return reaches
