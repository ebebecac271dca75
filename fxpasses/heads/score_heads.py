"""Which outputs of a model are scores of classes, and which values they are the scores of.

A model may give several heads: a tuple or a dict of them, stacked, or joined along the classes (old and new
classes), which is one head with all classes. Followed back from an output are views, casts, softmax and
sigmoid, joins, and averages over a map; what else stands there is told, as the average of the map before it
is not what the model gives.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any

from torch.fx import Graph, Node

from fxpasses.engine.outputs import spec_of
from fxpasses.heads.region import constant_shape
from fxpasses.private_names import pytree
from fxpasses.vocabulary.ops import (
    POOLS,
    AdaptivePool,
    Affine,
    Concat,
    Elementwise,
    FeatureNorm,
    Flatten,
    Reduce,
    Role,
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
    WindowPool,
)
from fxpasses.vocabulary.questions import is_share, stacked_by
from fxpasses.vocabulary.sizes import is_shape_value
from fxpasses.vocabulary.vocabulary import Vocabulary

_KEEPS_ORDER = (Flatten, Unflatten, View, Squeeze, Unsqueeze)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoreHead:
    """One output, as far as it is scores.

    Attributes:
        name: its keys in the output, or what its sites are called.
        scores: the value that it gives, before any softmax.
        sites: the affine ops that it comes from, in the order of the classes.
        tail: what stands between the averages and the scores, in graph order, the scores last.
        maps: what each of the averages right above the tail averages.
        blocker: the first op back from the scores that an average does not commute with; None where the
            average of a map made by the tail's ops is the scores.
    """

    name: str
    scores: Node
    sites: tuple[Node, ...]
    tail: tuple[Node, ...]
    maps: dict[Node, Node]
    blocker: Node | None = None


def find_score_heads(
    graph: Graph, vocabulary: Vocabulary, sites: Container[str], spec: pytree.TreeSpec | None = None
) -> tuple[ScoreHead, ...]:
    """The heads of a graph in the order of its outputs, each once.

    Args:
        graph: in any form.
        vocabulary: of the graph.
        sites: names of the nodes that are sites; an output that comes from no site is no head.
        spec: the tree of outputs, where they are flat and nothing else says it.
    """
    found: list[ScoreHead] = []
    values = [
        ((*keys, *more), scores, leaf is scores)
        for keys, leaf in _leaves(graph, spec)
        for more, scores in _unstacked(leaf, vocabulary)
    ]
    bare = {scores for _, scores, is_bare in values if is_bare}
    taken: set[Node] = set()
    for keys, scores, is_bare in values:
        # probabilities beside their logits are no further head
        if scores not in taken and (is_bare or scores not in bare):
            taken.add(scores)
            head = _head(scores, vocabulary, sites)
            if not head.sites:
                continue
            names = dict.fromkeys(name_of_site(site, vocabulary) for site in head.sites)
            is_named = any(isinstance(key, str) for key in keys)
            name = ".".join(map(str, keys)) if is_named else "+".join(names)
            found.append(dataclasses.replace(head, name=name))
    averaged = {source for head in found for source in head.maps.values()}
    found = [head for head in found if head.scores not in averaged]  # a map that is given out is no head
    seen: Counter[str] = Counter()
    for index, head in enumerate(found):
        seen[head.name] += 1
        if seen[head.name] > 1:
            found[index] = dataclasses.replace(head, name=f"{head.name}#{seen[head.name]}")
    return tuple(found)


def _leaves(graph: Graph, spec: pytree.TreeSpec | None) -> Iterator[tuple[tuple[Any, ...], Node]]:
    """Every output with its keys in the tree of outputs."""
    given = next(iter(reversed(graph.nodes))).args[0]
    spec = spec_of(graph) if spec is None else spec
    if spec is not None:
        flat = list(given) if isinstance(given, tuple | list) else [given]
        given = pytree.tree_unflatten(flat, spec) if len(flat) == spec.num_leaves else given
    for path, leaf in pytree.tree_flatten_with_path(_opened(given))[0]:
        if isinstance(leaf, Node):
            yield (
                tuple(getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))) for key in path),
                leaf,
            )


def _opened(value: Any) -> Any:
    """An output with its named tuples and dataclasses, which a graph makes by calls, as dicts of fields."""
    if not isinstance(value, Node):
        return pytree.tree_map_only(Node, _opened, value)
    made = value.target
    if value.op != "call_function" or not isinstance(made, type):
        return value
    fields = getattr(made, "_fields", ())
    if dataclasses.is_dataclass(made):
        fields = tuple(field.name for field in dataclasses.fields(made) if field.init)
    return _opened(dict(zip(fields, value.args, strict=False)) | value.kwargs) if fields else value


def _unstacked(leaf: Node, vocabulary: Vocabulary) -> Iterator[tuple[tuple[int, ...], Node]]:
    """The values of an output before any softmax, with their places where several are stacked."""
    pending: list[tuple[tuple[int, ...], Node]] = [((), leaf)]
    while pending:
        place, node = pending.pop(0)
        while is_share(inner := _before_views(node, vocabulary), vocabulary):
            node = inner.all_input_nodes[0]
        stacked = stacked_by(node)
        if stacked:
            pending = [((*place, index), source) for index, source in enumerate(stacked)] + pending
        else:
            yield place, node


def _averages_heads(op: AdaptivePool | WindowPool | Reduce, vocabulary: Vocabulary) -> bool:
    """Whether an average is one of stacked values, or of the classes of pooled ones, and of no map."""
    if (isinstance(op, Reduce) and 0 in op.dims) or stacked_by(op.source):
        return True
    above = _before_views(op.source, vocabulary)
    pool = vocabulary.classify(above)
    is_right_after = above is op.source and not (isinstance(pool, Reduce) and len(pool.dims) > 1)
    return isinstance(pool, POOLS) and not (is_right_after and not (isinstance(op, Reduce) and 1 in op.dims))


def _before_views(node: Node, vocabulary: Vocabulary) -> Node:
    """What a value is a view of: a single sigmoid is often squeezed."""
    while isinstance(op := vocabulary.classify(node), _KEEPS_ORDER):
        node = op.source
    return node


def _head(scores: Node, vocabulary: Vocabulary, sites: Container[str]) -> ScoreHead:
    """What the scores come from, followed back through all that an average commutes with."""
    tail: set[Node] = set()
    maps: dict[Node, Node] = {}
    blocker: Node | None = None
    pending = [scores]
    while pending:
        node = pending.pop()
        if node in tail or node in maps:
            continue
        op = vocabulary.classify(node)
        sources = _commuted(op, vocabulary)
        if sources is not None:
            tail.add(node)
            pending += reversed(sources)
        elif isinstance(op, POOLS) and op.average and not _averages_heads(op, vocabulary):
            maps[node] = _before_pools(node, vocabulary)
        elif blocker is None and node.name not in sites:
            blocker = node
    return ScoreHead(
        name="",
        scores=scores,
        sites=_sites_above(scores, vocabulary, sites),
        tail=tuple(sorted(tail)),
        maps=maps,
        blocker=blocker,
    )


def _commuted(op: object, vocabulary: Vocabulary) -> list[Node] | None:
    """The values that an op joins, moves or scales, each place alike; None where it does something else."""
    if isinstance(op, _KEEPS_ORDER):
        return [op.source]
    if isinstance(op, Concat):
        return list(op.sources) if op.dim in (1, -1) else None
    if isinstance(op, FeatureNorm):
        return [op.source] if op.role is Role.DROPOUT and not op.trains else None
    if not isinstance(op, Elementwise) or op.trains or op.channels or op.inplace:
        return None
    values = [source for source in op.sources if not _is_row(source, vocabulary)]
    is_one = len(values) == 1 and (op.role is Role.PRODUCT or op.sources[0] in values)
    is_affine = op.role is Role.SUM or (op.role is not Role.OTHER and is_one)
    return values if is_affine and values else None


def _is_row(node: Node, vocabulary: Vocabulary) -> bool:
    """Whether a constant has one number for each class, or one for all."""
    shape = constant_shape(node, vocabulary)
    return shape is not None and len(shape) <= 2 and shape[:-1] in ((), (1,))


def _before_pools(node: Node, vocabulary: Vocabulary) -> Node:
    """What a pool averages, seen through pools right before it and through views of a decomposed one."""
    while isinstance(op := vocabulary.classify(node), (*POOLS, Unsqueeze)):
        node = op.source
    return node


def _sites_above(scores: Node, vocabulary: Vocabulary, sites: Container[str]) -> tuple[Node, ...]:
    """The last affine ops above scores, where all of them are sites."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    pending = [scores]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(vocabulary.classify(node), Affine):
            if node.name not in sites:
                return ()
            found[node] = None
        else:  # a size is none of the values that scores come from
            pending += (source for source in reversed(node.all_input_nodes) if not is_shape_value(source))
    return tuple(found)


def name_of_site(site: Node, vocabulary: Vocabulary) -> str:
    """Module path of an affine op, or of the parameter that it reads."""
    op = vocabulary.classify(site)
    return op.name(site) if isinstance(op, Affine) else site.name
