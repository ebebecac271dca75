"""Handlers: arguments as torch's own symbols take them in, a typed op out.

Each handler has the signature of the torch symbol that it reads, so that Python binds the arguments by
name and fills in the defaults. ``spellings`` says which symbols it reads.
"""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxpasses.report import Form
from fxpasses.vocabulary.ops import (
    AdaptivePool,
    Affine,
    Concat,
    Elementwise,
    FeatureNorm,
    Flatten,
    Index,
    Op,
    Opaque,
    Permute,
    Plain,
    Product,
    Reduce,
    Role,
    ShapeValue,
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
    WindowPool,
)
from fxpasses.vocabulary.sizes import is_shape_value, leading_sizes, shape_owner, size_of, value_of

MAX_RANK = 3
OPAQUE = Opaque()
SHAPE_VALUE = ShapeValue()


def tuple_of(value: Any, rank: int) -> tuple[Any, ...]:
    """``value`` as one entry per spatial axis."""
    if not isinstance(value, (tuple, list)):
        return (value,) * rank
    return tuple(value) * rank if len(value) == 1 else tuple(value)


def nodes_in(value: Any) -> Iterator[Node]:
    """Nodes among arguments, nested ones included, in order."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from nodes_in(item)


_ACTIVATIONS = (
    "relu relu6 hardtanh hardswish hardsigmoid silu gelu mish elu selu celu leaky_relu sigmoid tanh softplus "
    "softsign tanhshrink softshrink hardshrink threshold logsigmoid rrelu dropout alpha_dropout"
).split()
ARITHMETIC = (
    "add sub mul div true_divide pow square sqrt rsqrt exp log log1p expm1 abs neg negative clamp clip "
    "clamp_min clamp_max relu sigmoid tanh reciprocal sign sin cos erf round floor ceil nan_to_num "
    "detach clone where gt lt ge le eq ne masked_fill dropout alpha_dropout threshold maximum minimum "
    "selu celu rrelu subtract multiply divide"
).split()
INPLACE_ONLY = "relu_ sigmoid_ tanh_ elu_ selu_ celu_ leaky_relu_ hardtanh_ threshold_ rrelu_".split()
ROLES: dict[Role, tuple[str, ...]] = {
    Role.SUM: ("add", "sub", "subtract", "rsub", "iadd", "isub"),
    Role.PRODUCT: ("mul", "multiply", "imul"),
    Role.QUOTIENT: ("div", "divide", "true_divide", "truediv", "itruediv"),
    Role.LINEAR: (
        *("neg", "negative", "detach", "clone", "contiguous", "float", "half", "bfloat16", "double", "to"),
        *("alias", "lift_fresh_copy", "_to_copy"),
    ),
}
_OPERATORS = tuple(
    getattr(operator, name) for name in "add sub mul truediv pow neg abs gt lt ge le eq ne".split()
)
INPLACE_OPERATORS = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)
_CASTS = "contiguous float half bfloat16 double to type type_as requires_grad_".split()


def functions_named(names: list[str], *owners: Any) -> set[Any]:
    return {getattr(owner, name) for owner in owners for name in names if hasattr(owner, name)}


ELEMENTWISE_FUNCTIONS: frozenset[Any] = frozenset(
    functions_named(_ACTIVATIONS, F) | functions_named(ARITHMETIC, torch) | set(_OPERATORS)
)
ELEMENTWISE_METHODS: frozenset[str] = frozenset(
    name for name in (*ARITHMETIC, *_ACTIVATIONS, *_CASTS) if hasattr(torch.Tensor, name)
)


def _is_own_extent(kernel: Any, source: Node, rank: int) -> bool:
    """Whether a pool's kernel is written as the spatial size of its own input."""
    if isinstance(kernel, Node):
        if kernel.op != "call_function" or kernel.target is not operator.getitem:
            return False
        owner, part = shape_owner(kernel.args[0]), kernel.args[1]
        return owner is not None and part in (slice(2, None), slice(-rank, None)) and same_size(owner, source)
    if not isinstance(kernel, (tuple, list)) or len(kernel) != rank:
        return False
    sizes = [size_of(extent) for extent in kernel]
    return all(
        size is not None and size[1] in (axis + 2, axis - rank) and same_size(size[0], source)
        for axis, size in enumerate(sizes)
    )


def same_size(first: Node, second: Node) -> bool:
    """Whether two nodes have one size: the same node, seen through functions of every element."""
    return _sized_by(first) is _sized_by(second)


def _sized_by(node: Node) -> Node:
    while node.op in ("call_function", "call_method") and (
        node.target in ELEMENTWISE_FUNCTIONS or node.target in ELEMENTWISE_METHODS
    ):
        tensors = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(tensors) != 1:
            break
        node = tensors[0]
    return node


Handler: TypeAlias = Callable[..., Op]


def _dims(dim: Any) -> tuple[int, ...] | None:
    if isinstance(dim, int):
        return (dim,)
    if isinstance(dim, (tuple, list)) and dim and all(isinstance(axis, int) for axis in dim):
        return tuple(dim)
    return None


def reduce(average: bool) -> Handler:
    def handler(input: Node, dim: Any = None, keepdim: bool = False, *, axis: Any = None, **_: Any) -> Op:
        dims = _dims(dim if axis is None else axis)
        return OPAQUE if dims is None else Reduce(input, dims, bool(keepdim), average)

    return handler


def adaptive_pool(rank: int, average: bool) -> Handler:
    def handler(input: Node, output_size: Any, return_indices: bool = False) -> Op:
        output = tuple_of(output_size, rank)
        sizes = [extent for extent in output if extent is not None]
        if return_indices or not all([isinstance(extent, int) and extent > 0 for extent in sizes]):
            return OPAQUE
        return AdaptivePool(input, rank, output, average)

    return handler


def window_pool(rank: int, average: bool) -> Handler:
    def handler(
        input: Node, kernel_size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any
    ) -> Op:
        unpadded = padding in (0, (0,), [0], (0,) * rank, [0] * rank)
        kernel = None if isinstance(kernel_size, Node) else tuple_of(kernel_size, rank)
        if kernel is not None and not all([isinstance(extent, int) for extent in kernel]):
            kernel = None
        covers = unpadded and kernel is None and _is_own_extent(kernel_size, input, rank)
        divisor = kwargs.get("divisor_override", args[2] if len(args) > 2 else None)
        plain = unpadded and divisor is None
        return WindowPool(input, rank, covers, average, kernel, plain)

    return handler


def flatten(input: Node, start_dim: int = 0, end_dim: int = -1) -> Op:
    return Flatten(input, start_dim, end_dim)


def unflatten(input: Node, dim: int, sizes: Any) -> Op:
    return Unflatten(input, dim, tuple(sizes)) if isinstance(sizes, (tuple, list)) else OPAQUE


def view(input: Node, *shape: Any, **kwargs: Any) -> Op:
    sizes = kwargs.get("shape", kwargs.get("size", shape))
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    if len(sizes) == 1 and (leading := leading_sizes(sizes[0])):
        return View(input, leading)
    usable = all(isinstance(size, int) or (isinstance(size, Node) and is_shape_value(size)) for size in sizes)
    return View(input, tuple(sizes)) if usable else OPAQUE


def squeeze(input: Node, dim: Any = None) -> Op:
    return Squeeze(input, _dims(dim))


def unsqueeze(input: Node, dim: int) -> Op:
    return Unsqueeze(input, dim)


def permute(input: Node, *dims: Any, **kwargs: Any) -> Op:
    order = kwargs.get("dims", dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)
    return Permute(input, tuple(order), swap=False)


def transpose(input: Node, dim0: int, dim1: int) -> Op:
    return Permute(input, (dim0, dim1), swap=True)


def matrix_transpose(input: Node) -> Op:
    return Permute(input, (1, 0), swap=False)


def getitem(input: Node, items: Any) -> Op:
    if is_shape_value(input):
        return SHAPE_VALUE
    parts = items if isinstance(items, tuple) else (items,)
    plain = all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts)
    return Index(input, parts) if plain and not any(nodes_in(_slice_ends(parts))) else OPAQUE


def _slice_ends(parts: tuple[Any, ...]) -> list[Any]:
    return [end for part in parts if isinstance(part, slice) for end in (part.start, part.stop, part.step)]


def concat(tensors: Any, dim: int = 0, **kwargs: Any) -> Op:
    usable = isinstance(tensors, (tuple, list)) and all(isinstance(item, Node) for item in tensors)
    return Concat(tuple(tensors), kwargs.get("axis", dim)) if usable else OPAQUE


def joint(**known: Any) -> Handler:
    """A handler of functions of all the nodes that they are given, of which so much is known."""

    def handler(*args: Any, **kwargs: Any) -> Op:
        inplace = {"inplace": kwargs.get("inplace") is True}
        return Elementwise(tuple(nodes_in((args, kwargs))), **(inplace | known))

    return handler


elementwise = joint()
inplace = joint(inplace=True)
channelwise = joint(channels=True, inplace=False)
group_norm = joint(channels=True, mixes=True, inplace=False)
batch_norm_in_eval_mode = joint(channels=True, role=Role.BATCH_NORM, inplace=False)


def in_role(role: Role, *, inplace: bool = False) -> Handler:
    """A handler of functions that are affine in one operand or more."""

    def handler(*args: Any, **kwargs: Any) -> Op:
        sources = tuple(nodes_in((args, kwargs)))
        known = role
        is_inverse = not (args and isinstance(args[0], Node))
        if role is Role.QUOTIENT and (is_inverse or kwargs.get("rounding_mode")):
            known = Role.OTHER
        if role is Role.LINEAR and any(_is_whole(value) for value in (*args, *kwargs.values())):
            known = Role.OTHER
        return Elementwise(sources, inplace=inplace, role=known)

    return handler


def added(*, inplace: bool = False) -> Handler:
    """A handler of functions that add two operands, unless a number says otherwise."""
    summed = in_role(Role.SUM, inplace=inplace)

    def handler(*args: Any, **kwargs: Any) -> Op:
        op = summed(*args, **kwargs)
        if len(args) != 2 or kwargs or not isinstance(op, Elementwise) or len(op.sources) != 2:
            return op
        return dataclasses.replace(op, plain=Plain.SUM)

    return handler


def copied(plain: Plain) -> Handler:
    """A handler of functions that put a value in an order of memory; only the usual ones are plain."""
    usual = (None, torch.contiguous_format, torch.preserve_format)

    def handler(input: Node, memory_format: Any = None) -> Op:
        return Elementwise((input,), role=Role.LINEAR, plain=plain if memory_format in usual else None)

    return handler


def _is_whole(value: Any) -> bool:
    """Whether a value is a dtype that cannot hold fractions."""
    return isinstance(value, torch.dtype) and not (value.is_floating_point or value.is_complex)


def dropout(input: Node, p: Any = 0.5, training: Any = True, inplace: bool = False, **kwargs: Any) -> Op:
    trains = kwargs.get("train", training) is not False and p != 0
    return Elementwise((input,), inplace=inplace is True, role=Role.DROPOUT, trains=trains)


def dropout_in_place(self: Node, p: Any = 0.5, train: Any = True) -> Op:
    return dropout(self, p, train, inplace=True)


def batch_norm(*args: Any, training: Any = None, **kwargs: Any) -> Op:
    """``F.batch_norm`` and ``aten.batch_norm``: both have ``training`` as their sixth argument."""
    mode = args[5] if len(args) > 5 else training
    sources = tuple(nodes_in((args, kwargs)))
    return Elementwise(sources, channels=True, role=Role.BATCH_NORM, trains=mode not in (None, False))


def on_channels(input: Node, dim: Any = None, *args: Any, **kwargs: Any) -> Op:
    """A function along ``dim``; the same on a map and on its flat form only along axis 1."""
    return Elementwise((input,), channels=True) if dim == 1 else FeatureNorm(input, is_last=dim == -1)


def normalize(input: Node, p: float = 2.0, dim: Any = 1, *args: Any, **kwargs: Any) -> Op:
    return on_channels(input, dim)


def product(*args: Any, **kwargs: Any) -> Op:
    return Product(tuple(nodes_in((args, kwargs))))


def select(input: Node, dim: int, index: int) -> Op:
    """``x.select(dim, index)`` as an index."""
    if not isinstance(index, int):
        return OPAQUE
    if dim >= 0:
        return Index(input, (*(slice(None),) * dim, index))
    return Index(input, (..., index, *(slice(None),) * (-1 - dim)))


def slice_(input: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Op:
    """A slice that takes everything; any other is not followed."""
    takes_all = start in (None, 0) and step == 1 and (end is None or end == sys.maxsize)
    return Index(input, (slice(None),)) if takes_all else OPAQUE


def as_strided(input: Node, size: Any, stride: Any, storage_offset: Any = None) -> Op:
    """New strides over the same shape, which decompositions leave; any other use is not followed."""
    value = input.meta.get("val")
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else None
    sizes = tuple(extent.meta.get("val") if isinstance(extent, Node) else extent for extent in size)
    return FeatureNorm(input) if shape == sizes and not storage_offset else OPAQUE


def channel_dropout(input: Node, p: Any = 0.5, training: Any = True, *args: Any, **kwargs: Any) -> Op:
    trains = kwargs.get("train", training) is not False and p != 0
    return FeatureNorm(input, role=Role.DROPOUT, trains=trains)


def feature_norm(input: Node, *args: Any, **kwargs: Any) -> Op:
    return FeatureNorm(input)


def shaped_norm(input: Node, normalized_shape: Any, *args: Any, **kwargs: Any) -> Op:
    is_last = isinstance(normalized_shape, (tuple, list)) and len(normalized_shape) == 1
    return FeatureNorm(input, is_last=is_last)


def linear(input: Node, weight: Any, bias: Any = None) -> Op:
    if not isinstance(weight, Node) or not isinstance(bias, Node | None):
        return OPAQUE
    return Affine(source=input, form=Form.LINEAR, rank=0, weight_node=weight, bias_node=bias)


def conv(rank: int, transposed: bool = False) -> Handler:
    def handler(
        input: Node,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        **_: Any,
    ) -> Op:
        if not isinstance(weight, Node) or not isinstance(bias, Node | None):
            return OPAQUE
        value = value_of(weight)
        kernel = None if value is None else tuple(value.shape[2:])
        numbers = conv_numbers(rank, stride, padding, dilation, kernel)
        if numbers is None:
            return OPAQUE
        return Affine(
            source=input,
            form=Form.CONV,
            rank=rank,
            weight_node=weight,
            bias_node=bias,
            groups=groups,
            transposed=transposed,
            **numbers,
        )

    return handler


def convolution(
    input: Node,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Op:
    """``aten.convolution``, which names no rank, as a convolution of the rank of its weight.

    A weight that has the shape of a Linear's by now, on the way to another form, tells none.
    """
    value = value_of(weight) if isinstance(weight, Node) else None
    own = value.ndim - 2 if value is not None else 0
    rank = own or max(map(len, (stride, padding, dilation)))
    return conv(rank, transposed)(input, weight, bias, stride, padding, dilation, groups)


def conv_numbers(
    rank: int, stride: Any, padding: Any, dilation: Any, kernel: tuple[int, ...] | None
) -> dict[str, Any] | None:
    same = padding == "same"
    if padding == "valid" or (same and kernel is not None and set(kernel) == {1}):
        padding, same = 0, False
    elif same:
        padding = 1
    numbers = {
        "stride": tuple_of(stride, rank),
        "padding": tuple_of(padding, rank),
        "dilation": tuple_of(dilation, rank),
    }
    least = {"stride": 1, "padding": 0, "dilation": 1}
    plain = all(
        len(extents) == rank and all(isinstance(extent, int) and extent >= least[name] for extent in extents)
        for name, extents in numbers.items()
    )
    return {**numbers, "same": same} if plain else None
