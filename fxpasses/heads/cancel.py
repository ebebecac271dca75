"""Decides which values change between map and flat form, and which views cancel.

The algebra of local rules. Call the form that the sites will need the *wanted* form: ``[N, C, *k]`` for
convolutions, ``[N, C·∏k]`` for Linears. A value is *free* in the wanted form if having it there costs no
new view:

* it has that form already, or is a site that is about to get it;
* it is a view of a free value (``unflatten(flatten(u)) = u`` and its mirror);
* it is elementwise in free values (``f(flatten(u)) = flatten(f(u))``);
* it is a mean over the spatial axes, whose ``keepdim`` can be turned.

An elementwise value moves only where it is free and some reader wants it moved, so that every move ends
in a cancellation. Views that nobody reads any more die. All else stays as the author wrote it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch.fx import Node

from fxpasses.heads.layout import Layout, reduced
from fxpasses.heads.region import PooledValue, Region, constant_shape, lies_along_channels
from fxpasses.report import Form
from fxpasses.vocabulary.ops import BATCH, CHANNELS, VIEWS, Elementwise, Reduce
from fxpasses.vocabulary.sizes import is_shape_value
from fxpasses.vocabulary.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What a rewrite moves.

    Attributes:
        moved: sites, elementwise ops and reductions that will compute the wanted form.
        free: values that can be had in the wanted form without a new view.
        bypassed: views whose result is a moved value as it is (the cancellations).
        dead: views that nobody reads after the rewrite.
    """

    moved: frozenset[Node]
    free: frozenset[Node]
    bypassed: frozenset[Node]
    dead: frozenset[Node]


def is_wanted(layout: Layout | None, to: Form) -> bool:
    """Whether a layout is the form that sites of form ``to`` read."""
    if layout is None:
        return False
    return layout.is_map if to is Form.CONV else layout.is_flat


def view_source(value: PooledValue, region: Region) -> Node | None:
    """What a value is a view of, or None; a reduction over axes of extent 1 is a view."""
    op = value.op
    if isinstance(op, VIEWS):
        return op.source if op.source in region.values else None
    if isinstance(op, Reduce) and op.source in region.values:
        layout = region.values[op.source].layout
        return op.source if takes_points(op, layout) and layout is not None and layout.is_map else None
    return None


def takes_points(op: Reduce, layout: Layout | None) -> bool:
    """Whether a reduction of a value with this layout only takes axes of one position, or leaves them."""
    if layout is None or not layout.is_point:
        return False
    return reduced(layout, op.dims, keepdim=op.keepdim) is not None


def is_plain(layout: Layout | None) -> bool:
    """Whether an elementwise op on this layout can be computed on the map or on its flat form."""
    if layout is None:
        return False
    if layout.is_map or layout.order is not None:
        return True
    point = ((BATCH,), (CHANNELS,), *((),) * (len(layout.axes) - 2))
    return layout.is_point and layout.axes == point


class _Decision:
    def __init__(self, region: Region, vocabulary: Vocabulary, sites: frozenset[Node], to: Form) -> None:
        self.region = region
        self.vocabulary = vocabulary
        self.sites = sites
        self.to = to
        self.wanted = {node for node, value in region.values.items() if is_wanted(value.layout, to)}
        self.free: set[Node] = set()
        self.needed: set[Node] = set()

    def run(self) -> Moves:
        values = self.region.values
        for node, value in values.items():
            if self._is_free(node, value):
                self.free.add(node)
        for node in reversed(values):
            if any(self._wants(user) for user in node.users):
                self.needed.add(node)
        moved = frozenset(node for node, value in values.items() if self._moves(node, value))
        bypassed = frozenset(self._bypassed(moved))
        dead: set[Node] = set()
        for node, value in reversed(values.items()):
            if view_source(value, self.region) is None or node not in self.free:
                continue
            is_read = node in self.wanted  # what moves reads it, by way of dead views too
            gone = not is_read and all(user in moved or user in dead for user in node.users)
            if node in bypassed or (node.users and gone):
                dead.add(node)
        return Moves(
            moved=moved,
            free=frozenset(self.free),
            bypassed=bypassed,
            dead=frozenset(dead),
        )

    def _is_free(self, node: Node, value: PooledValue) -> bool:
        if node in self.sites or node in self.wanted:
            return True
        source = view_source(value, self.region)
        if source is not None:
            return source in self.free and value.layout is not None
        return self._crosses(value) or self._turns(value)

    def _crosses(self, value: PooledValue) -> bool:
        """Whether an elementwise op may be computed on the other form of its operands."""
        op, layout = value.op, value.layout
        if not isinstance(op, Elementwise) or not is_plain(layout) or layout is None:
            return False
        if op.channels and not layout.is_point:
            return False
        pooled = [source for source in op.sources if source in self.region.values]
        constants = [source for source in op.sources if source not in self.region.values]
        if op.channels:
            constants = []  # statistics and weights of a norm lie along axis 1 in both forms
        return (
            all(source in self.free for source in pooled)
            and all(
                lies_along_channels(constant_shape(source, self.vocabulary), layout.axes)
                for source in constants
            )
            and has_own_module(value, self.vocabulary)
        )

    def _turns(self, value: PooledValue) -> bool:
        """Whether a reduction gives the wanted form with its ``keepdim`` turned."""
        op, layout = value.op, value.layout
        if not isinstance(op, Reduce) or layout is None:
            return False
        if self.to is Form.LINEAR:
            is_only = op.source not in self.region.values and len(value.node.users) == 1
            return layout.is_map and layout.is_point and op.keepdim and is_only
        if op.keepdim or not (layout.is_flat or layout.axes[1:2] == ((CHANNELS,),)):
            return False
        source = self.region.values.get(op.source)
        return (source is None and not is_over_tokens(op)) or (source is not None and self._turns(source))

    def _wants(self, user: Node) -> bool:
        """Whether a reader would rather read the wanted form."""
        if user in self.sites:
            return True
        value = self.region.values.get(user)
        if value is None or user not in self.free:
            return False
        if view_source(value, self.region) is not None:
            return user in self.wanted or user in self.needed
        return user in self.needed and (self._crosses(value) or self._turns(value))

    def _moves(self, node: Node, value: PooledValue) -> bool:
        if node in self.sites:
            return True
        if node in self.wanted or node not in self.needed or node not in self.free:
            return False
        return view_source(value, self.region) is None

    def _bypassed(self, moved: frozenset[Node]) -> Iterator[Node]:
        """The wanted views of a moved value, by way of others too."""
        origins: dict[Node, Node] = {}
        for node, value in self.region.values.items():
            source = view_source(value, self.region)
            origins[node] = node if source is None else origins[source]
            if node in self.wanted and origins[node] is not node and origins[node] in moved:
                yield node


def decide(region: Region, vocabulary: Vocabulary, sites: frozenset[Node], to: Form) -> Moves:
    """What has to move so that ``sites`` get the form ``to``; pure."""
    return _Decision(region, vocabulary, sites, to).run()


def component(region: Region, start: Node) -> frozenset[Node]:
    """The pooled values connected with ``start``; heads that share nothing are edited apart."""
    found: set[Node] = set()
    pending = [start]
    while pending:
        node = pending.pop()
        if node in found or node not in region.values:
            continue
        found.add(node)
        pending.extend(node.all_input_nodes)
        pending.extend(user for user in node.users if not is_shape_value(user))
    return frozenset(found)


def has_own_module(value: PooledValue, vocabulary: Vocabulary) -> bool:
    """Whether a module whose class names its rank can be replaced: called once, without hooks."""
    op, node = value.op, value.node
    if not isinstance(op, Elementwise) or op.module_rank is None:
        return True
    module = vocabulary.root.get_submodule(str(node.target))
    return vocabulary.count_calls(node) == 1 and not module._forward_hooks and not module._forward_pre_hooks


def is_over_tokens(op: Reduce) -> bool:
    """Whether a reduction of an input ``[N, *k, C]`` leaves the last axis."""
    return 1 in op.dims or max(op.dims) < -1


def is_scalar(shape: tuple[int | None, ...] | None) -> bool:
    """Whether a constant of this shape can be combined with a value of any rank."""
    return shape is not None and all(extent == 1 for extent in shape) and len(shape) <= 1
