"""An ONNX file that gives the map of its scores: the head before its pool, and the map beside the logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import onnx
import torch
from torch.fx import Node

from fxexport.onnx_dialect.arrays import OnnxFile, WeightPool, arrays_of
from fxexport.onnx_dialect.close import close
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.open import OpenOnnx
from fxexport.onnx_dialect.pieces import written
from fxexport.onnx_dialect.record import Shapes
from fxexport.onnx_dialect.rewrite import explained
from fxexport.onnx_node import replace
from fxpasses.api import report_of, sites_of
from fxpasses.change import carry_out
from fxpasses.errors import InputError
from fxpasses.heads.score_heads import ScoreHead, find_score_heads
from fxpasses.miss_codes import MissCode
from fxpasses.private_names import pytree
from fxpasses.report import Form, Scope
from fxpasses.survey import Survey
from fxpasses.vocabulary.ops import Concat, Elementwise
from fxpasses.vocabulary.vocabulary import Vocabulary

_CLONE = torch.ops.aten.clone.default


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MappedFile:
    """A file whose outputs are the logits of one head and their map."""

    head: str
    file: OnnxFile


def mapped_file(
    content: Content, choose: Callable[[Sequence[str]], int], input_shapes: Shapes = ()
) -> MappedFile:
    """The file with its head before its pool, and the logits and their map as its outputs.

    ``choose`` gives the place of the wanted head among the names of the outputs.

    Raises:
        InputError: the logits are no affine function of a pooled map; why.
    """
    with explained(content):
        return _mapped_file(content, choose, input_shapes)


def _mapped_file(
    content: Content, choose: Callable[[Sequence[str]], int], input_shapes: Shapes
) -> MappedFile:
    opened = OpenOnnx(content, input_shapes)
    survey = Survey(opened, Scope.HEAD, lambda: None)
    change = carry_out(survey, Form.DENSE, (), with_map=False)
    missed = {miss.node: miss for miss in report_of(change, survey, Form.DENSE).misses}
    sites = {entry.site.node for entry in change.rewrites}
    if not sites:  # a head that stands before its pool already is left as it is, and is no miss
        sites = {site.node for site in sites_of(Survey(opened, Scope.HEAD, lambda: None), Form.DENSE).sites}
    vocabulary = Vocabulary(opened.root, opened.lifted)
    spec = pytree.tree_structure(dict.fromkeys(opened.outputs, 0))
    heads = find_score_heads(opened.graph, vocabulary, sites | missed.keys(), spec)
    head = heads[choose([found.name for found in heads])]
    what = f"output {head.name!r} is no affine function of a pooled map"
    for miss in (missed[site.name] for site in head.sites if site.name in missed):
        if miss.code is not MissCode.BEFORE_POOL:  # a head whose pool comes last has its map there
            raise InputError(f"{what}: {miss.reason}", where=content.name, fix=miss.fix)
    map_, between = _map_of(head, vocabulary)
    if map_ is None:
        raise InputError(f"{what}: {between!r} stands between", where=content.name)
    names: Mapping[Node, str] = {node: name for name, node in opened.by_name.items()}
    if change.rewrites:
        closed = close(opened, change.plan, Form.DENSE, {})
        data, names = b"".join(written(closed.pieces, content.view)), closed.names
        content = Content(data, content.name, content.folder)
    file = arrays_of(content, WeightPool())
    given = (onnx.helper.make_empty_tensor_value_info(names[node]) for node in (head.scores, map_))
    replace(file.proto.graph.output, given)
    return MappedFile(head=head.name, file=file)


def _map_of(head: ScoreHead, vocabulary: Vocabulary) -> tuple[Node | None, str]:
    """The map whose average the scores are, seen through views; else what stands between."""
    if head.blocker is not None:
        return None, head.blocker.name
    found = dict(head.maps)
    for node in head.tail:
        if node.target is not _CLONE and isinstance(vocabulary.classify(node), Concat | Elementwise):
            return None, node.name
        found[node] = found[node.all_input_nodes[0]]
    return found.get(head.scores), head.scores.name
