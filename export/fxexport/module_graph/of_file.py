"""ONNX file → terms: the file opened as a graph of the passes' own kind, read as any other is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from torch import fx

from fxexport import onnx_node
from fxexport.module_graph.naming import is_identity
from fxexport.module_graph.terms import graph_terms
from fxexport.onnx_dialect.content import HeldContent
from fxexport.onnx_dialect.extents import Shape, numpy_name
from fxexport.onnx_dialect.open import OpenOnnx
from fxexport.onnx_graph.shapes import BATCH
from fxexport.terms.term import DEQUANTIZE, QUANTIZE, Array, TermGraph
from fxpasses.vocabulary.ops import Op
from fxpasses.vocabulary.vocabulary import Vocabulary

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_FUNCTIONS = {
    "Relu": "relu",
    "HardSwish": "hardswish",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Gelu": "gelu",
    "Clip": "relu6",
    "HardSigmoid": "hardsigmoid",
    QUANTIZE: QUANTIZE,
    DEQUANTIZE: DEQUANTIZE,
}
"""Functions with a bound, by the name under which ``activations`` knows them."""


def file_terms(
    proto: onnx.ModelProto, weights: Mapping[str, Array], shapes: Mapping[str, Shape]
) -> TermGraph:
    """The graph of a file as terms.

    Args:
        proto: the file.
        weights: values of the initialisers that it marks as external data.
        shapes: of its values, for some batch; where one is unknown the operator is kept as it is.

    Raises:
        BrokenGraph: it contradicts itself.
    """
    opened = OpenOnnx(HeldContent(proto, weights), shapes=shapes)
    vocabulary = Vocabulary(opened.root, opened.lifted)
    known = {node.name: extents for node in opened.graph.nodes if (extents := _extents(node)) is not None}
    return graph_terms(opened.graph, vocabulary, _FileNaming(opened), known)


def _extents(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a value, where it is known and has a batch; one that the file leaves open is ``BATCH``."""
    batch, *rest = tuple(getattr(node.meta.get("val"), "shape", ())) or (None,)
    if batch is None or not all(type(extent) is int for extent in rest):
        return None
    return (batch if type(batch) is int else BATCH, *rest)


class _FileNaming:
    """The names of a file's values and nodes."""

    def __init__(self, opened: OpenOnnx) -> None:
        self._opened = opened
        self._values = {node: name for name, node in opened.by_name.items()}
        self._units: dict[fx.Node, dict[fx.Node, None]] = {}
        self._protos: dict[fx.Node, onnx.NodeProto] = {}
        self._places: dict[str, int] = {}
        for unit in opened.units:
            proto, nodes = opened.file.node[unit.index], dict.fromkeys(unit.nodes)
            self._units |= dict.fromkeys(unit.nodes, nodes)
            self._protos |= dict.fromkeys(unit.nodes, proto)
            self._places |= {name: place for place, name in enumerate(proto.output) if place}

    def value(self, node: fx.Node) -> str:
        """The value's name in the file."""
        return self._values.get(node, "")

    def told(self, node: fx.Node) -> str:
        """The name of the file's node, or of its value."""
        proto = self._protos.get(node)
        return self.value(node) if proto is None else proto.name or proto.output[0]

    def signature(self, node: fx.Node) -> str:
        """Operator and its inputs: ``c`` is a constant, ``v`` another value, ``-`` one left out."""
        proto = self._protos.get(node)
        if proto is None:
            return str(node.target)
        domain = onnx_node.domain_of(proto.domain)
        stored, alias = self._opened.constants.stored, self._opened.constants.alias
        kinds = "".join(("c" if alias(name) in stored else "v") if name else "-" for name in proto.input)
        place = self._places.get(self.value(node))
        told = f"{domain + '.' if domain else ''}{proto.op_type}({kinds.rstrip('-')})"
        return f"{told}[{place}]" if place else told

    def function(self, node: fx.Node) -> str | None:
        """That of the operator, with the limits, slopes and approximation for which it has one."""
        proto = self._protos[node]
        given = onnx_node.attributes_of(proto, self._opened.opsets)
        if proto.op_type == "Clip":
            limits = [self._constant(name) for name in proto.input[1:]]
            values = [None if limit is None or limit.size != 1 else limit.item() for limit in limits]
            values = values or [given.get("min"), given.get("max")]
            is_known = values == [0.0, 6.0]
        elif proto.op_type == "HardSigmoid":
            is_known = math.isclose(given["alpha"], 1 / 6, rel_tol=2.0**-23) and given["beta"] == 0.5
        elif proto.op_type in (QUANTIZE, DEQUANTIZE):
            is_known = self._has_levels(proto)
        else:
            is_known = given.get("approximate") in (None, "none")
        return _FUNCTIONS.get(proto.op_type) if is_known else None

    def is_identity(self, node: fx.Node, op: Op) -> bool:
        """Copies, casts to the type that a value has, and dropouts that do not train."""
        proto = self._protos.get(node)
        if proto is not None and proto.op_type == "Cast" and onnx_node.is_standard(proto):
            kinds = [self._opened.shapes.get(name, (None,))[0] for name in (proto.input[0], proto.output[0])]
            return kinds[0] is not None and kinds[0] == kinds[1]
        return is_identity(node, op, None)

    def is_view(self, node: fx.Node) -> bool:
        """Of the operators that reorder nothing, whoever computes the sizes."""
        proto = self._protos.get(node)
        return proto is not None and proto.op_type in _VIEWS and onnx_node.is_standard(proto)

    def parameter(self, path: str) -> tuple[str, bool]:
        """The initialiser's name, and whether its matrix is stored as ``[K, O]``."""
        name = self._opened.constants.by_path.get(path, path)
        return name, self._opened.constants.transposed.get(name, False)

    def unit(self, node: fx.Node) -> Collection[fx.Node]:
        """What stands for one node of the file, for those that give a value of the file."""
        return self._units.get(node, {}) if node in self._values else ()

    def _has_levels(self, proto: onnx.NodeProto) -> bool:
        """Whether a node has one scale for all, and a zero point, if any, that says to which integers."""
        constants = [self._constant(name) for name in proto.input[1:]]
        levels = [item.dtype.name for item in constants[1:] if item is not None]
        is_one = all(item is not None and item.size == 1 for item in constants)
        if len(constants) == 1:
            return is_one and not any(item.i for item in proto.attribute if item.name == "output_dtype")
        stored = self._opened.constants.stored.get(self._opened.constants.alias(proto.input[-1]))
        # torch lacks integers of fewer bits, and holds them as bytes of no value
        return is_one and stored is not None and [numpy_name(stored.data_type)] == levels

    def _constant(self, name: str) -> Array | None:
        tensor = self._opened.constants.tensor(self._opened.constants.alias(name))
        return None if tensor is None else np.asarray(tensor.numpy())
