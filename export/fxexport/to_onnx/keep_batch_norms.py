"""Batch norms as operators of their own in a file, as in the model, whatever stands before them.

torch's exporter multiplies a batch norm into the weights of the convolution or matrix product before it, and
then no weight of the file is the model's own. Where that is asked for, heads keep their weights all the same:
behind them the norm stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import onnx_ir as ir
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from fxpasses.private_names import OpOverload

_APART = "fxhead.apart"
_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_batch_norm")
_LINEARS = ("linear", "addmm", "mm")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
_POOLS = (
    "mean",
    *(f"{kind}avg_pool{rank}d" for kind in ("", "adaptive_", "_adaptive_") for rank in (1, 2, 3)),
)


@contextlib.contextmanager
def norms_apart(model: ir.Model, means: Collection[str] | None = None) -> Iterator[None]:
    """Within it no rule of an optimiser knows these batch norms: they are operators of a domain of their own.

    ``means`` names the running means of the norms that stay; None are all.
    """
    norms = [
        node
        for node in model.graph.all_nodes()
        if node.op_type == "BatchNormalization" and (means is None or _mean_of(node) in means)
    ]
    model.opset_imports[_APART] = 1
    for node in norms:
        node.domain = _APART
    try:
        yield
    finally:
        for node in norms:
            node.domain = ""
        model.opset_imports.pop(_APART, None)


def _mean_of(norm: ir.Node) -> str | None:
    mean = norm.inputs[3]
    return None if mean is None else mean.name


def head_norms(program: ExportedProgram) -> frozenset[str]:
    """The running means of the batch norms that stand right behind what may be a head.

    That are Linears, convolutions on a map of one cell, and those that a pool follows.
    """
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    found = set()
    for node in program.graph.nodes:
        site = node.args[0] if _is_call(node, _NORMS) else None
        if isinstance(site, Node) and (_is_call(site, _LINEARS) or _is_head_convolution(site, node)):
            mean = node.args[3]
            found |= {names[mean.name]} if isinstance(mean, Node) and mean.name in names else set()
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
