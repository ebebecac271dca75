"""Batch norms as operators of their own in a file, as in the model, whatever stands before them.

torch's exporter multiplies a batch norm into the weights of the convolution or matrix product before it, and
then no weight of the file is the model's own. Where that is asked for, heads keep their weights all the same:
behind them the norm stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import onnx_ir as ir
from torch.export import ExportedProgram
from torch.fx import Node

from fxpasses.report import Form
from fxpasses.vocabulary.ops import POOLS, Affine, Elementwise, Role
from fxpasses.vocabulary.sizes import value_of
from fxpasses.vocabulary.vocabulary import Vocabulary

_APART = "fxhead.apart"


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
    vocabulary = Vocabulary(
        program.graph_module, {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    )
    found: set[str] = set()
    for node in program.graph.nodes:
        op = vocabulary.classify(node)
        if isinstance(op, Elementwise) and op.role is Role.BATCH_NORM:
            name = vocabulary.tensor_name(node.args[3])  # None of a norm that keeps no statistics
            found |= {name} if name is not None and _is_head(node.args[0], node, vocabulary) else set()
    return frozenset(found)


def _is_head(site: Node, norm: Node, vocabulary: Vocabulary) -> bool:
    op = vocabulary.classify(site)
    if not isinstance(op, Affine) or op.form is Form.LINEAR:
        return vocabulary.has_affine(op)
    readers = map(vocabulary.classify, norm.users)
    if any(isinstance(reader, POOLS) and reader.average for reader in readers):
        return True
    source = value_of(op.source)
    return source is not None and all(extent == 1 for extent in source.shape[2:])
