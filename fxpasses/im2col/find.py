"""Finds the convolutions that can be a matrix product of unfolded patches, and those that are; reads only.

    conv_k(u) = fold_shape(linear(unfold(u)))

``unfold`` writes every patch of ``C·kh·kw`` numbers as a column, so that the weight ``[O, C, kh, kw]`` is the
matrix ``[O, C·kh·kw]`` over the same memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from torch.fx import Graph, Node

from fxpasses.engine import refusals
from fxpasses.engine.match import Match, matched, missed
from fxpasses.engine.uses import Uses
from fxpasses.im2col.column_sizes import Sizes
from fxpasses.im2col.columns import Broken, Chain, chains_from
from fxpasses.im2col.patches import Patches
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Miss, Problem, Scope
from fxpasses.vocabulary.ops import Affine, Elementwise, Unfold, WeightSource, memory_of
from fxpasses.vocabulary.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Im2col:
    """A convolution, or its form as unfold and matrix product.

    Attributes:
        match: the site; its node convolves or multiplies.
        patches: what it reads of ``source``.
        source: the map that it reads.
        end: the node whose value is the map that it gives.
        chain: the nodes that only the unfolded form has, in graph order; empty for a convolution.
        reshapes: whether the parameter has a row for each output and changes its shape with the form.
    """

    match: Match
    patches: Patches
    source: Node
    end: Node
    chain: tuple[Node, ...] = ()
    reshapes: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnfoldSites:
    """Every site of im2col in a graph, in graph order, the misses, and what uses the sites' weights."""

    convolutions: tuple[Im2col, ...]
    products: tuple[Im2col, ...]
    misses: tuple[Miss, ...]
    uses: Uses
    vocabulary: Vocabulary


def find(
    graph: Graph, vocabulary: Vocabulary, to: Form | None, sizes: Callable[[Node], Sizes]
) -> UnfoldSites:
    """The convolutions that are or can be unfolded; edits nothing.

    Sites in another form than ``to`` have to be found with what forbids it.
    """
    finder = _Finder(graph, vocabulary, sizes)
    return finder.run(with_convolutions=to is not Form.CONV)


class _Finder:
    def __init__(self, graph: Graph, vocabulary: Vocabulary, sizes: Callable[[Node], Sizes]) -> None:
        self.graph = graph
        self.root = vocabulary.root
        self.vocabulary = vocabulary
        self.sizes = sizes
        self.misses: dict[Node, Miss] = {}

    def run(self, *, with_convolutions: bool) -> UnfoldSites:
        convolutions: dict[Node, Im2col] = {}
        products: dict[Node, Im2col] = {}
        nodes = [*self.graph.nodes] if with_convolutions else self.vocabulary.unfolds(self.graph)
        for node in nodes:
            op = self.vocabulary.classify(node)
            if isinstance(op, Unfold):
                products |= {found.match.node: found for found in self._products(node, op)}
            elif isinstance(op, Affine) and op.form is Form.CONV:
                found = self._convolution(node, op)
                if isinstance(found, Problem):
                    self._miss(node, op.name(node), Form.CONV, found)
                else:
                    convolutions[node] = found
        ops = [found.match.op for found in (*convolutions.values(), *products.values())]
        uses = Uses.of(self.graph, self.vocabulary, ops) if ops else Uses()
        for sites in (convolutions, products):
            self._refuse_shared(sites, uses)
        return UnfoldSites(
            convolutions=tuple(convolutions[node] for node in sorted(convolutions)),
            products=tuple(products[node] for node in sorted(products)),
            misses=tuple(self.misses[node] for node in sorted(self.misses)),
            uses=uses,
            vocabulary=self.vocabulary,
        )

    def _miss(self, node: Node, name: str, form: Form, problem: Problem) -> None:
        self.misses[node] = missed(node, name, form, problem)

    # --- convolutions

    def _convolution(self, node: Node, op: Affine) -> Im2col | Problem:
        problem = _kind_problem(op) or refusals.module_problem(op) or refusals.weight_problem(op, self.root)
        if problem is not None:
            return problem
        weight = self.vocabulary.weight(op)
        assert weight is not None, "the guards let only tensors through"
        problem = refusals.bias_problem(op, self.vocabulary, weight.shape[0])
        if problem is not None:
            return problem
        height, width = weight.shape[2:]
        return Im2col(
            match=_match(node, op, Form.CONV, weight, (height, width)),
            patches=Patches.of(op, (height, width)),
            source=op.source,
            end=node,
        )

    # --- unfold and product

    def _products(self, node: Node, op: Unfold) -> Iterator[Im2col]:
        for chain in chains_from(node, op, self.vocabulary, self.sizes(op.source)):
            found = self._product(chain) if isinstance(chain, Chain) else chain.problem
            if isinstance(found, Im2col):
                yield found
            else:
                site = chain.site
                self._miss(site, self._name(site, chain), Form.UNFOLD, found)

    def _name(self, site: Node, chain: Chain | Broken) -> str:
        op = self.vocabulary.classify(site)
        if isinstance(op, Affine):
            return op.name(site)
        weight = chain.weight if isinstance(chain, Chain) else None
        return site.name if weight is None else weight.name.removesuffix(".weight")

    def _product(self, chain: Chain) -> Im2col | Problem:
        read = self.vocabulary.classify(chain.site)
        op = read if isinstance(read, Affine) else Affine(source=chain.op.source, form=Form.LINEAR, rank=0)
        if chain.weight is not None:
            op = dataclasses.replace(
                op, weight=chain.weight.name, weight_node=chain.weight.reader,
                weight_source=WeightSource.PARAMETER,
            )  # fmt: skip
        if chain.bias is not None:
            op = dataclasses.replace(op, bias=chain.bias.name, bias_node=chain.bias.reader)
        problem = refusals.module_problem(op) or refusals.weight_problem(op, self.root)
        problem = problem or refusals.bias_problem(op, self.vocabulary, chain.outputs) or self._written(chain)
        if problem is not None:
            return problem
        weight = self.vocabulary.weight(op)
        assert weight is not None, "the guards let only tensors through"
        height, width = chain.op.kernel
        if weight.numel() % (weight.shape[0] * height * width):
            return Problem(
                MissCode.UNKNOWN_LAYOUT,
                f"its {weight.numel() // weight.shape[0]} numbers a row are no {height}x{width} patches",
                "unfold with the weight's own kernel",
            )
        return Im2col(
            match=_match(chain.site, op, Form.UNFOLD, weight, (height, width)),
            patches=Patches.unfolded(chain.op),
            source=chain.op.source,
            end=chain.end,
            chain=chain.own,
            reshapes=weight.ndim == 2,
        )

    def _written(self, chain: Chain) -> Problem | None:
        """Whether the map is written to after it was unfolded, so that a convolution would see that."""
        memory = self._memory(chain.op.source)
        node = chain.unfold.next
        while node < chain.end:
            op = self.vocabulary.classify(node)
            if isinstance(op, Elementwise) and op.inplace and op.sources:
                if self._memory(op.sources[0]) is memory:
                    return Problem(
                        MissCode.IN_PLACE_ALIAS,
                        f"in-place {node.name!r} writes the map after it was unfolded",
                        "make that op out of place (inplace=False)",
                    )
            node = node.next
        return None

    def _memory(self, node: Node) -> Node:
        """The value whose memory a value may share."""
        while (owner := memory_of(self.vocabulary.classify(node))) is not None:
            node = owner
        return node

    # --- all together

    def _refuse_shared(self, sites: dict[Node, Im2col], uses: Uses) -> None:
        """Leaves out the sites whose weight another use needs in its present shape."""
        while True:
            refused: dict[Node, Problem] = {}
            for node, found in sites.items():
                if found.reshapes and (problem := self._sharing(found, sites, uses)) is not None:
                    refused[node] = problem
            for node, problem in refused.items():
                self.misses[node] = sites.pop(node).match.missed(problem)
            if not refused:
                return

    def _sharing(self, found: Im2col, sites: dict[Node, Im2col], uses: Uses) -> Problem | None:
        alike: dict[Node, Affine] = {}
        for node, other in sites.items():
            if other.reshapes and _shape(other) == _shape(found):
                alike |= dict.fromkeys((node, *other.chain), other.match.op)
        return refusals.sharing_problem(found.match.op, self.root, uses, alike)


def _shape(found: Im2col) -> object:
    """What two uses of one weight must have in common to change form together."""
    move, op = found.match.move, found.match.op
    return move.conv_shape, None if op.module is None else found.patches


def _match(node: Node, op: Affine, form: Form, weight: torch.Tensor, kernel: tuple[int, int]) -> Match:
    features = weight.numel() // weight.shape[0] if weight.shape[0] else math.prod(weight.shape[1:])
    return matched(
        node,
        op,
        form=form,
        scope=Scope.UNFOLDED,
        out_features=weight.shape[0],
        channels=features // math.prod(kernel),
        kernel=kernel,
    )


def _kind_problem(op: Affine) -> Problem | None:
    """Why a convolution is no matrix product of its patches."""
    if op.transposed:
        return Problem(
            MissCode.TRANSPOSED,
            "it is a transposed convolution, which adds patches up",
            "write it as a plain convolution",
        )
    if op.rank != 2:
        return Problem(
            MissCode.RANK, f"it is a {op.rank}-D convolution, and torch unfolds 2-D maps only", "use Conv2d"
        )
    if op.groups != 1:
        return Problem(
            MissCode.GROUPS,
            f"it has {op.groups} groups, so a product for each",
            "only groups=1 is one product",
        )
    return None
