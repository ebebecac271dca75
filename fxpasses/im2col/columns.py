"""Follows the columns of an unfold to matrix products with a weight, and these back to a map.

``[N, K, L]`` is what unfold gives: ``K = C·kh·kw`` numbers of each of ``L`` patches. A product with a
weight ``[O, K]`` makes ``K`` into ``O`` wherever that axis stands, a view makes ``L`` into ``H`` and ``W``;
what ends as ``[N, O, H, W]`` is a convolution, however it was written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch.fx import Node

from fxpasses.im2col.column_sizes import (
    BATCH,
    HEIGHT,
    NUMBERS,
    OUTPUTS,
    PATCHES,
    WIDTH,
    MapSizes,
    Sizes,
    lost,
)
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Problem
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.constants import Constant, constant_of, is_same_view
from fxpasses.vocabulary.ops import (
    MATMUL,
    Affine,
    Elementwise,
    Fold,
    Op,
    Permute,
    Plain,
    Product,
    Unflatten,
    Unfold,
    View,
    WeightSource,
    is_copy,
)
from fxpasses.vocabulary.sizes import is_shape_value
from fxpasses.vocabulary.vocabulary import Vocabulary

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Columns that a weight is multiplied with, and the map that the product becomes.

    Attributes:
        unfold: the node that makes the columns.
        site: the node that multiplies.
        weight: the weight; None for a module's, and for one that is an input of the graph.
        bias: the bias, where it is added apart or read by a function.
        outputs: how many rows the weight has.
        end: the node whose value is the map.
        own: every node of it but the site, in graph order.
    """

    unfold: Node
    op: Unfold
    site: Node
    weight: Constant | None
    bias: Constant | None
    outputs: int
    end: Node
    own: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A product of columns with a weight that is no convolution, and why."""

    site: Node
    problem: Problem


def chains_from(unfold: Node, op: Unfold, vocabulary: Vocabulary, sizes: Sizes) -> Iterator[Chain | Broken]:
    """Every product of the columns with a weight; columns of one image where only that can be followed."""
    batched, single = (
        list(_Walk(unfold, op, vocabulary, sizes, is_batched=is_batched).run())
        for is_batched in (True, False)
    )
    alone = {chain.site: chain for chain in single if isinstance(chain, Chain)}
    found = {
        chain.site: alone.get(chain.site, chain) if isinstance(chain, Broken) else chain for chain in batched
    }
    yield from {**alone, **found}.values()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """A value on the way: its node, its axes, the nodes before it."""

    node: Node
    axes: Axes
    path: tuple[Node, ...]

    def then(self, node: Node, axes: Axes) -> _At:
        return _At(node=node, axes=axes, path=(*self.path, node))


@dataclasses.dataclass(slots=True, kw_only=True)
class _Product:
    """What is known of a product while its result is followed."""

    site: Node
    weight: Constant | None
    bias: Constant | None
    outputs: int
    takes_bias: bool = True


class _Walk:
    def __init__(
        self, unfold: Node, op: Unfold, vocabulary: Vocabulary, sizes: Sizes, *, is_batched: bool
    ) -> None:
        self.unfold = unfold
        self.op = op
        self.vocabulary = vocabulary
        self.sizes = MapSizes(unfold=unfold, op=op, vocabulary=vocabulary, known=sizes, is_batched=is_batched)
        self.lead: Axes = (BATCH,) if is_batched else ()

    def run(self) -> Iterator[Chain | Broken]:
        pending = [_At(node=self.unfold, axes=(*self.lead, NUMBERS, PATCHES), path=(self.unfold,))]
        while pending:
            at = pending.pop()
            for reader in at.node.users:
                op = self.vocabulary.classify(reader)
                axes = _rearranged(at.axes, op)
                if axes is not None:
                    pending.append(at.then(reader, axes))
                elif isinstance(op, (Affine, Product)):
                    yield from self._site(at, reader, op)

    # --- the product

    def _site(self, at: _At, node: Node, op: Affine | Product) -> Iterator[Chain | Broken]:
        found = self._linear(at, node, op) if isinstance(op, Affine) else self._product(at, node, op)
        if found is None:
            return
        if isinstance(found, Problem):
            yield Broken(site=node, problem=found)
            return
        known, axes = found
        result = self._followed(at.then(node, axes), known)
        yield Broken(site=node, problem=result) if isinstance(result, Problem) else result

    def _linear(self, at: _At, node: Node, op: Affine) -> tuple[_Product, Axes] | Problem | None:
        if op.form is not Form.LINEAR:
            return None
        if at.axes[-1] != NUMBERS:
            return lost(node, f"multiplies along {_named(at.axes)}, not along the numbers of a patch")
        weight = None if op.module is not None else constant_of(op.weight_node, self.vocabulary)
        own = self.vocabulary.weight(op) if weight is None else None
        if weight is not None and not self._is_matrix(weight, transposed=False):
            return lost(node, f"multiplies with another view of {weight.name!r} than its rows")
        bias = None if op.module is not None else constant_of(op.bias_node, self.vocabulary)
        is_computed = op.bias_node is not None and (bias is None or bool(bias.views))
        if (weight is None and own is None) or (is_computed and op.weight_source is not WeightSource.INPUT):
            return Problem(
                MissCode.COMPUTED_WEIGHT,
                "its weight or bias is computed in the graph, and is no parameter",
                "store it as a parameter first",
            )
        shape = weight.view.shape if weight is not None else getattr(own, "shape", (0,))
        takes_bias = op.module is None and op.bias_node is None
        known = _Product(site=node, weight=weight, bias=bias, outputs=int(shape[0]), takes_bias=takes_bias)
        return known, (*at.axes[:-1], OUTPUTS)

    def _product(self, at: _At, node: Node, op: Product) -> tuple[_Product, Axes] | Problem | None:
        if len(op.sources) != 2 or op.sources.count(at.node) != 1:
            return None
        is_left = op.sources[0] is at.node
        weight = constant_of(op.sources[1 if is_left else 0], self.vocabulary)
        if weight is None:
            return None  # attention and the like
        multiply = _matmul if op.equation == MATMUL else _einsum
        result = multiply(op.equation, at.axes, is_left=is_left)
        if result is None or not self._is_matrix(weight, transposed=result[1]):
            return lost(node, f"multiplies {_named(at.axes)} with {weight.name!r} in another way")
        axes, is_transposed = result
        outputs = int(weight.view.shape[1 if is_transposed else 0])
        return _Product(site=node, weight=weight, bias=None, outputs=outputs), axes

    def _is_matrix(self, weight: Constant, *, transposed: bool) -> bool:
        """Whether the graph reads the weight as ``[O, K]``, or the transpose of that."""
        view = weight.view.mT if transposed and weight.view.ndim == 2 else weight.view
        parameter = weight.parameter
        if view.ndim != 2 or parameter.ndim not in (2, 4):
            return False
        if parameter.ndim == 4 and tuple(parameter.shape[2:]) != self.op.kernel:
            return False
        return is_same_view(view, parameter.reshape(parameter.shape[0], -1))

    # --- its result

    def _followed(self, at: _At, known: _Product) -> Chain | Problem:
        before = len(at.path) - 1  # what comes before the product may have other readers
        goal = (*self.lead, OUTPUTS, HEIGHT, WIDTH)
        turned = [node for node in known.site.all_input_nodes if aten.untransposed(node) is not None]
        extra = [node for node in turned if constant_of(node, self.vocabulary) is not None]
        while at.axes != goal:
            readers = [user for user in at.node.users if not is_shape_value(user)]
            if len(readers) != 1 or readers[0].op == "output":
                return lost(at.node, "is read before it is a map again")
            reader = readers[0]
            op = self.vocabulary.classify(reader)
            axes = _rearranged(at.axes, op) or self._summed(at, op, known, extra)
            split = self._split(at, reader, op, known.outputs) if axes is None else axes
            if isinstance(split, Problem):
                return split
            at = at.then(reader, split)
        extra += known.weight.views if known.weight is not None else ()
        own = sorted({node for node in (*at.path, *extra) if node is not known.site})
        chain = Chain(
            unfold=self.unfold, op=self.op, site=known.site, weight=known.weight, bias=known.bias,
            outputs=known.outputs, end=at.node, own=tuple(own),
        )  # fmt: skip
        measured = _measured({*own, known.site}, at.path[before:-1])
        return lost(measured, "reads the size of what is no map yet") if measured is not None else chain

    def _summed(self, at: _At, op: Op, known: _Product, extra: list[Node]) -> Axes | None:
        """The axes after a bias is added, or None where something else happens."""
        if not isinstance(op, Elementwise) or op.plain is not Plain.SUM:
            return None
        if op.inplace and op.sources[0] is not at.node:
            return None
        others = [source for source in op.sources if source is not at.node]
        bias = constant_of(others[0], self.vocabulary) if len(others) == 1 else None
        if bias is None or not known.takes_bias or PATCHES not in at.axes:
            return None
        place = at.axes.index(OUTPUTS) - len(at.axes)
        shape = (1,) * (bias.view.ndim + place) + (known.outputs,) + (1,) * (-1 - place)
        if bias.view.ndim < -place or tuple(bias.parameter.shape) != (known.outputs,):
            return None
        if not is_same_view(bias.view, bias.parameter.view(shape)):
            return None
        known.bias, known.takes_bias = bias, False
        extra.extend(bias.views)
        return at.axes

    def _split(self, at: _At, node: Node, op: Op, outputs: int) -> Axes | Problem:
        """The axes after the patches became height and width."""
        if PATCHES not in at.axes:
            return lost(node, f"follows on {_named(at.axes)}, which is no map")
        place = at.axes.index(PATCHES)
        axes = (*at.axes[:place], HEIGHT, WIDTH, *at.axes[place + 1 :])
        if isinstance(op, Fold) and at.axes == (*self.lead, OUTPUTS, PATCHES):
            return self.sizes.of_pair(node, op.sizes) or axes
        if isinstance(op, Unflatten) and op.dim in (place, place - len(at.axes)) and len(op.sizes) == 2:
            return self.sizes.of_pair(node, op.sizes) or axes
        if isinstance(op, View) and len(op.sizes) == len(axes):
            return self.sizes.of_view(node, dict(zip(axes, op.sizes, strict=True)), outputs) or axes
        return lost(node, f"follows on {_named(at.axes)}, which are no map yet")


def _rearranged(axes: Axes, op: Op) -> Axes | None:
    """The axes after a permutation or a copy; None after anything else."""
    if is_copy(op):
        return axes
    order = op.order(len(axes)) if isinstance(op, Permute) else None
    return None if order is None else tuple(axes[dim] for dim in order)


def _matmul(_: str, axes: Axes, *, is_left: bool) -> tuple[Axes, bool] | None:
    """The axes after a product with a matrix, and whether that has its rows last; None for another one."""
    place = len(axes) - (1 if is_left else 2)
    if axes[place] != NUMBERS:
        return None
    return (*axes[:place], OUTPUTS, *axes[place + 1 :]), is_left


def _einsum(equation: str, axes: Axes, *, is_left: bool) -> tuple[Axes, bool] | None:
    """The same after an einsum with a matrix."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    operands = inputs.split(",")
    if not arrow or len(operands) != 2:
        return None
    columns, matrix = operands if is_left else operands[::-1]
    if len(columns) != len(axes) or len(matrix) != 2 or len({*columns}) != len(axes) or "." in equation:
        return None
    names = dict(zip(columns, axes, strict=True))
    summed = [letter for letter in matrix if names.get(letter) == NUMBERS]
    rows = [letter for letter in matrix if letter not in names]
    kept = {*columns, *rows} - {*summed}
    if len(summed) != 1 or len(rows) != 1 or {*output} != kept or len(output) != len(kept):
        return None
    names[rows[0]] = OUTPUTS
    return tuple(names[letter] for letter in output), matrix[1] == rows[0]


def _measured(own: set[Node], values: tuple[Node, ...]) -> Node | None:
    """A node that is no part of the chain and uses the size of a value in it, or None."""
    pending = [user for node in values for user in node.users if is_shape_value(user)]
    while pending:
        node = pending.pop()
        for user in node.users:
            if is_shape_value(user):
                pending.append(user)
            elif user not in own:
                return user
    return None


def _named(axes: Axes) -> str:
    return f"[{', '.join(axes)}]"
