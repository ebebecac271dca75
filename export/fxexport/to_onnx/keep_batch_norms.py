"""Batch norms as operators of their own in a file, as in the model, whatever stands before them.

torch's exporter multiplies a batch norm into the weights of the convolution or matrix product before it. A
head keeps its weights: there the norm stays. Where convolutions upstream and their form as a matrix product
are to be compared, both files have to keep all norms, so that their weights are the model's.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator
from typing import Any

import torch
from onnxscript import rewriter
from onnxscript.rewriter import MatchResult, RewriteRule
from torch.export import ExportedProgram
from torch.fx import Node

from fxexport.to_onnx.private_names import fuse_batchnorm
from fxpasses.private_names import OpOverload

_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_batch_norm")
_LINEARS = ("linear", "addmm", "mm")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
_POOLS = (
    "mean",
    *(f"{kind}avg_pool{rank}d" for kind in ("", "adaptive_", "_adaptive_") for rank in (1, 2, 3)),
)


@contextlib.contextmanager
def norms_apart(weights: Collection[str] | None = None) -> Iterator[None]:
    """Within it the exporter's optimiser leaves batch norms where they are.

    Args:
        weights: names of the weights that no norm is multiplied into; None are all.
    """
    rules = rewriter._DEFAULT_REWRITE_RULES
    fusing = {id(rule) for rule in fuse_batchnorm.rules}
    if weights is None:
        kept = [rule for rule in rules if id(rule) not in fusing]
    else:
        kept = [_sparing(rule, weights) if id(rule) in fusing else rule for rule in rules]
    rewriter._DEFAULT_REWRITE_RULES = tuple(kept)
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


def _sparing(rule: RewriteRule, weights: Collection[str]) -> RewriteRule:
    """The rule for all weights but these."""
    spared, is_fit = copy.copy(rule), rule._condition_function

    def is_other(context: Any, **bound: Any) -> Any:
        if bound["inbound_out"].producer().inputs[1].name in weights:
            return MatchResult().fail("it is the weight of a head")
        return is_fit(context, **bound)

    spared._condition_function = is_other
    return spared


def head_weights(program: ExportedProgram) -> frozenset[str]:
    """Weights of what may be a head, with a batch norm right behind it.

    That are Linears, convolutions on a map of one cell, and those that a pool follows.
    """
    names = program.graph_signature.inputs_to_parameters
    found = set()
    for node in program.graph.nodes:
        site = node.args[0] if _is_call(node, _NORMS) else None
        if isinstance(site, Node) and (_is_call(site, _LINEARS) or _is_head_convolution(site, node)):
            found |= {names[item.name] for item in site.all_input_nodes if item.name in names}
    return frozenset(found)


def _is_head_convolution(site: Node, norm: Node) -> bool:
    if not _is_call(site, _CONVOLUTIONS):
        return False
    if any(_is_call(user, _POOLS) for user in norm.users):
        return True
    source = site.all_input_nodes[0].meta.get("val")
    return isinstance(source, torch.Tensor) and all(extent == 1 for extent in source.shape[2:])


def _is_call(node: Node, names: Collection[str]) -> bool:
    target = node.target
    return isinstance(target, OpOverload) and target._schema.name.removeprefix("aten::") in names
