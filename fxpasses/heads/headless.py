"""The last affine ops of a model that has no pooled head, and what they do instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch.fx import Graph, Node

from fxpasses.engine.refusals import altered_problem, quantized_problem
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Problem
from fxpasses.vocabulary.ops import POOLS, VIEWS, Affine, Elementwise, Index, Op, Reduce, Subgraph
from fxpasses.vocabulary.questions import with_places
from fxpasses.vocabulary.vocabulary import Vocabulary

_MAX_PATH = 16
_SCORES = 2
"""Axes of ``[N, O]``."""

MATRIX_PRODUCT = Problem(
    MissCode.MATRIX_PRODUCT,
    "it is a matrix product, not a Linear of a parameter",
    "write it as nn.Linear or F.linear",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LastAffine:
    """An op from which the output is reached without meeting another affine op.

    Attributes:
        op: its typed op; None for a matrix product that is no Linear, and for a subgraph.
        crossed: the nodes from it down to the pool that follows it, the pool last; empty without one.
    """

    node: Node
    op: Affine | None
    crossed: tuple[Node, ...]

    def problem(self, vocabulary: Vocabulary) -> Problem:
        """Why it is no site."""
        if isinstance(vocabulary.classify(self.node), Subgraph):
            return in_subgraph(self.node, "it is")
        if self.op is None:
            return MATRIX_PRODUCT
        if self.crossed:
            return _before_pool(self.op, self.crossed)
        return quantized_problem(self.op) or _reads(self.op, vocabulary)


def last_affines(graph: Graph, vocabulary: Vocabulary) -> Iterator[LastAffine]:
    """The last affine ops of a graph, found from its outputs backwards."""
    output = next(iter(reversed(graph.nodes)), None)
    pending: list[tuple[Node, tuple[Node, ...], bool]] = []
    if output is not None:
        pending.extend((source, (), False) for source in output.all_input_nodes)
    seen: set[Node] = set()
    while pending:
        node, path, has_pool = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        op = vocabulary.classify(node)
        if vocabulary.has_affine(op):
            crossed = _to_pool(path, vocabulary) if has_pool else ()
            yield LastAffine(node=node, op=op if isinstance(op, Affine) else None, crossed=crossed)
            continue
        step = (*path, node) if len(path) < _MAX_PATH else path
        pools = has_pool or _pools_map(op)
        pending.extend((source, step, pools) for source in node.all_input_nodes)


def _to_pool(path: tuple[Node, ...], vocabulary: Vocabulary) -> tuple[Node, ...]:
    """The part of a path from the output back to an op that follows the op, up to the first pool."""
    for index in range(len(path) - 1, -1, -1):
        if _pools_map(vocabulary.classify(path[index])):
            return tuple(reversed(path[index:]))
    return ()


def _pools_map(op: Op) -> bool:
    """Whether it pools a map; the largest of all scores, as softmax is written out, is no pool.

    Nor is the mean over the first axis: of scores that were stacked there, or over the batch.
    """
    if not isinstance(op, POOLS):
        return False
    value = op.source.meta.get("val")
    rank = value.dim() if isinstance(value, torch.Tensor) else None
    is_first = isinstance(op, Reduce) and any(dim == 0 or dim + (rank or 0) == 0 for dim in op.dims)
    return not is_first and (rank is None or rank > _SCORES)


def _before_pool(op: Affine, crossed: tuple[Node, ...]) -> Problem:
    *between, pool = crossed
    kind = "convolution" if op.form is Form.CONV else "Linear"
    stands = ", ".join(repr(node.name) for node in between)
    reason = f"it is a {kind} on the whole map, before the pool {pool.name!r}"
    if between:
        reason += f", with {stands} between, so it does not read a pooled map"
    return Problem(MissCode.BEFORE_POOL, reason, "nothing to rewrite in this scope: the head is its own pool")


def _reads(op: Affine, vocabulary: Vocabulary) -> Problem:
    """What an affine op reads that no pool collapses, seen through views and elementwise ops."""
    node, joint = op.source, None
    passing = vocabulary.classify(node)
    while isinstance(passing, (Elementwise, *VIEWS)) and not _selects(passing):
        joint = node if isinstance(passing, Elementwise) and len(passing.sources) > 1 else joint
        source = passing.sources[:1] if isinstance(passing, Elementwise) else (passing.source,)
        if not source:
            break
        node = source[0]
        passing = vocabulary.classify(node)
    if isinstance(passing, Subgraph):
        return in_subgraph(node, "what it reads is computed")
    if (altered := altered_problem(node, vocabulary)) is not None:
        return altered
    if (pool := with_places(node)) is not None:
        return Problem(
            MissCode.NOT_POOLED,
            f"it reads {pool.name!r}, which gives values together with their places and is not followed",
            "write a maximum as amax(dim) or nn.AdaptiveMaxPool2d(1)",
        )
    if joint is not None and isinstance(passing, POOLS):
        return Problem(
            MissCode.UNKNOWN_LAYOUT,
            f"{joint.name!r} joins what the pool {node.name!r} gives with values that are not followed",
            "give a normalisation as one operator, or leave it out of the head",
        )
    called = vocabulary.module(str(node.target)) if node.op == "call_module" else None
    if called is not None and not type(called).__module__.startswith("torch."):
        return Problem(
            MissCode.UNKNOWN_LAYOUT,
            f"it reads {node.name!r}, a {type(called).__name__} that the graph calls and does not show",
            "give a program in which it is traced: torch.export.export(model, inputs)",
        )
    if getattr(node.target, "domain", ""):
        return Problem(
            MissCode.UNKNOWN_LAYOUT,
            f"it reads {node.name!r}, an operator of one runtime ({node.target!r}) that is not followed",
            "give the file from before that runtime optimised it",
        )
    if hasattr(node.target, "domain") and node.meta.get("val") is None:
        return Problem(
            MissCode.UNKNOWN_LAYOUT,
            f"it reads {node.name!r}, of which nothing in the file tells how many axes it has",
            "declare the shapes of values in the file, those behind operators that are not ONNX's above all",
        )
    fix = "no pool, so nothing to rewrite in this scope"
    if isinstance(passing, Index) and _selects(passing):
        what = f"reads one position of {passing.source.name!r} ({node.name!r}), such as a class token"
    elif op.form is Form.CONV:
        what = f"is a convolution on a whole map ({node.name!r})"
    else:
        what = f"reads {node.name!r}"
        fix = "pool the map to a fixed size first; nn.AdaptiveAvgPool2d(k) leaves one of k x k as it is"
    return Problem(MissCode.NOT_POOLED, f"it {what}, which no pool collapses", fix)


def in_subgraph(call: Node, what: str) -> Problem:
    """That something is in a subgraph, or what it reads is; ``what`` says which."""
    name = call.target if isinstance(call.target, str) else getattr(call.target, "__name__", call.name)
    return Problem(
        MissCode.SUBGRAPH,
        f"{what} in a subgraph that {name!r} calls, which the passes do not enter",
        "move the head out of it; run_decompositions() of a program writes out no_grad and autocast regions, "
        "onnx.inliner.inline_local_functions() the functions of a file",
    )


def _selects(op: Op) -> bool:
    """Whether an op takes one position of an axis, ``x[:, 0]``."""
    return isinstance(op, Index) and len(op.items) > 1 and any(type(item) is int for item in op.items)
