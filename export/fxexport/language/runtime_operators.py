"""What operators mean that ONNX Runtime's optimiser writes, whose schemas onnx does not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fxexport.language import arithmetic, definitions, moves
from fxexport.language.call import Call, Handler
from fxexport.language.contraction import matmul
from fxexport.language.term import Uninterpreted, Value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOperator:
    """An operator in version 1 of ONNX Runtime's domain.

    Attributes:
        inputs: names of its operands.
        defaults: every attribute that is interpreted, with its default; None where it has to be given.
        handler: what it means.
    """

    inputs: tuple[str, ...]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    handler: Handler


def _gelu(first: str, bias: str | None, approximate: str) -> Handler:
    def applied(call: Call) -> Value:
        value, summand = call.real(first), None if bias is None else call.optional_tensor(bias)
        value = value if summand is None else arithmetic.add(call.terms, value, summand)
        return definitions.gelu(call.terms, value, approximate)

    return applied


def _quick_gelu(call: Call) -> Value:
    value, alpha = call.real("X"), call.number("alpha")
    if alpha == 1:
        return definitions.silu(call.terms, value)
    factor = definitions.number(call.terms, alpha, value.dtype)
    gate = definitions.sigmoid(call.terms, arithmetic.multiply(call.terms, value, factor))
    return arithmetic.multiply(call.terms, value, gate)


def _matmul(call: Call) -> Value:
    operands = []
    for name in "AB":
        value = call.real(name)
        if call.is_on(f"transBatch{name}"):
            if value.rank < 3:
                raise Uninterpreted("a matrix without a batch")
            value = value.permuted([*range(1, value.rank - 1), 0, value.rank - 1])
        is_turned = call.is_on(f"trans{name}") and value.rank > 1
        order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
        operands.append(value.permuted(order) if is_turned else value)
    product, alpha = matmul(call.terms, *operands), call.number("alpha")
    if alpha == 1:
        return product
    if product.dtype == "float16":
        raise Uninterpreted("a product that half precision need not hold")
    return arithmetic.multiply(call.terms, product, definitions.number(call.terms, alpha, product.dtype))


def _skip_layer_norm(call: Call) -> tuple[Value | None, ...]:
    value, skip, bias = call.real("input"), call.tensor("skip"), call.optional_tensor("bias")
    if bias is not None:  # of the product among the two, if there is one: all three are added up
        value, skip = (skip, value) if value.term.op == "dot" else (value, skip)
        skip = arithmetic.add(call.terms, skip, bias)
    total = arithmetic.add(call.terms, value, skip)
    if value.dtype != "float32" or total.rank != value.rank:
        raise Uninterpreted("a norm in another type, or of another rank")
    epsilon = definitions.number(call.terms, call.number("epsilon"), value.dtype)
    found = definitions.normalised(call.terms, total, [total.rank - 1], epsilon)
    found = definitions.weighted(call.terms, found, call.tensor("gamma"), call.optional_tensor("beta"))
    return found, None, None, total


def _attention(call: Call) -> Value:
    """Queries, keys and values by one product, and what these attend to, head beside head."""
    value, bias, heads = call.real("input"), call.tensor("bias"), call.integer("num_heads")
    rows = arithmetic.add(call.terms, matmul(call.terms, value, call.real("weights")), bias)
    width = rows.shape[-1]
    call.ignore("mask_filter_value")  # of masks only, of which there is none
    if call.is_on("unidirectional") or value.rank != 3 or rows.rank != 3 or not isinstance(width, int):
        raise Uninterpreted("another attention")
    sizes = call.any("qkv_hidden_sizes") or [width // 3] * 3
    if len(sizes) != 3 or heads < 1 or any(size < heads or size % heads for size in sizes):
        raise Uninterpreted("another attention")
    query, key, cells = (
        moves.reshape(call.terms, part, [*part.shape[:2], heads, size // heads]).permuted([0, 2, 1, 3])
        for part, size in zip(moves.pieces(call.terms, rows, 2, sizes), sizes, strict=True)
    )
    scale = call.number("scale")
    factor = definitions.number(call.terms, scale, value.dtype) if scale else None
    found = definitions.attention(call.terms, query, key, cells, None, factor, is_causal=False)
    return moves.reshape(call.terms, found.permuted([0, 2, 1, 3]), [*rows.shape[:2], sizes[2]])


OPERATORS: dict[str, RuntimeOperator] = {
    "Attention": RuntimeOperator(
        inputs=("input", "weights", "bias"),
        defaults={
            "mask_filter_value": -10000.0,
            "num_heads": None,
            "qkv_hidden_sizes": None,
            "scale": 0.0,
            "unidirectional": 0,
        },
        handler=_attention,
    ),
    "Gelu": RuntimeOperator(inputs=("X",), handler=_gelu("X", None, "none")),
    "BiasGelu": RuntimeOperator(inputs=("A", "B"), handler=_gelu("A", "B", "none")),
    "FastGelu": RuntimeOperator(inputs=("X", "bias"), handler=_gelu("X", "bias", "tanh")),
    "QuickGelu": RuntimeOperator(inputs=("X",), defaults={"alpha": 1.702}, handler=_quick_gelu),
    "FusedMatMul": RuntimeOperator(
        inputs=("A", "B"),
        defaults={"alpha": 1.0} | {f"trans{part}{name}": 0 for part in ("", "Batch") for name in "AB"},
        handler=_matmul,
    ),
    "SkipLayerNormalization": RuntimeOperator(
        inputs=("input", "skip", "gamma", "beta", "bias"),
        defaults={"epsilon": None},
        handler=_skip_layer_norm,
    ),
}
"""By name."""
