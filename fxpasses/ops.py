"""One vocabulary for every spelling: a node in, a typed op out.

The same operation arrives as an ``nn`` module, a function, a tensor method, or an ATen operator. This
file alone knows the spellings (``aten`` has those of ATen, ``emit`` writes them).
``Vocabulary.classify`` binds a node's arguments by name (each handler has the signature of the torch
symbol that it reads, so Python does the binding and fills in the defaults) and gives a typed op; what
has no entry is ``Opaque``.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from fxpasses import aten
from fxpasses.report import Form
from fxpasses.typed_ops import (
    BATCH,
    CHANNELS,
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
    Product,
    Reduce,
    ShapeValue,
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
    WeightSource,
    WindowPool,
)

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


# --- sizes -----------------------------------------------------------------------------------

_SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "training")
_SHAPE_METHODS = frozenset({"size", "dim", "ndimension", "numel", "stride"})
_SCALAR_FUNCTIONS = frozenset({operator.getitem, int, float, len, getattr})


def is_shape_value(node: Node) -> bool:
    """Whether a node holds a size or a shape, or arithmetic on them, and no tensor."""
    if isinstance(node.target, torch._ops.OpOverload):
        return aten.is_size(node.target)
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[2] == "training"
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _SHAPE_ATTRIBUTES
    arithmetic = node.target in _SCALAR_FUNCTIONS or getattr(node.target, "__module__", "") == "_operator"
    inputs = node.all_input_nodes
    return arithmetic and bool(inputs) and all(is_shape_value(source) for source in inputs)


def size_of(value: Any) -> tuple[Node, int] | None:
    """The tensor and axis whose size ``value`` holds, or None."""
    if not isinstance(value, Node):
        return None
    args: Any = value.args
    if value.op == "call_method" and value.target == "size":
        dim = args[1] if len(args) > 1 else value.kwargs.get("dim")
        return (args[0], dim) if isinstance(dim, int) and isinstance(args[0], Node) else None
    if value.op == "call_function" and aten.is_size(value.target) and len(args) == 2:
        return (args[0], args[1])
    if value.op != "call_function" or value.target is not operator.getitem:
        return None
    shape, dim = args
    start: Any = 0
    if isinstance(shape, Node) and shape.target is operator.getitem and isinstance(shape.args[1], slice):
        part: Any = shape.args[1]  # b, c = x.shape[:2]
        shape, start = shape.args[0], part.start or 0
        if part.step not in (None, 1) or not isinstance(start, int):
            return None
    owner = _shape_owner(shape)
    return (owner, start + dim) if owner is not None and isinstance(dim, int) else None


def factors_of(value: Node) -> list[Node]:
    """The sizes that a node multiplies; the node itself where it is no product."""
    if value.op == "call_function" and value.target is operator.mul:
        return [factor for source in value.all_input_nodes for factor in factors_of(source)]
    return [value]


def _shape_owner(node: Any) -> Node | None:
    """The tensor whose whole shape a node holds, or None."""
    if not isinstance(node, Node) or not node.args or not isinstance(node.args[0], Node):
        return None
    if node.op == "call_method" and node.target == "size" and len(node.args) == 1 and not node.kwargs:
        return node.args[0]
    if node.op == "call_function" and node.target is getattr and node.args[1] == "shape":
        return node.args[0]
    return None


def _is_own_extent(kernel: Any, source: Node, rank: int) -> bool:
    """Whether a pool's kernel is written as the spatial size of its own input."""
    if isinstance(kernel, Node):
        if kernel.op != "call_function" or kernel.target is not operator.getitem:
            return False
        owner, part = _shape_owner(kernel.args[0]), kernel.args[1]
        return (
            owner is not None and part in (slice(2, None), slice(-rank, None)) and _same_size(owner, source)
        )
    if not isinstance(kernel, (tuple, list)) or len(kernel) != rank:
        return False
    sizes = [size_of(extent) for extent in kernel]
    return all(
        size is not None and size[1] in (axis + 2, axis - rank) and _same_size(size[0], source)
        for axis, size in enumerate(sizes)
    )


def _same_size(first: Node, second: Node) -> bool:
    """Whether two nodes have one size: the same node, seen through functions of every element."""
    return _sized_by(first) is _sized_by(second)


def _sized_by(node: Node) -> Node:
    while node.op in ("call_function", "call_method") and (
        node.target in _ELEMENTWISE_FUNCTIONS or node.target in _ELEMENTWISE_METHODS
    ):
        tensors = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(tensors) != 1:
            break
        node = tensors[0]
    return node


# --- functions and methods: handlers with the signatures of the torch symbols --------------------

Handler = Callable[..., Op]


def _dims(dim: Any) -> tuple[int, ...] | None:
    if isinstance(dim, int):
        return (dim,)
    if isinstance(dim, (tuple, list)) and dim and all(isinstance(axis, int) for axis in dim):
        return tuple(dim)
    return None


def _reduce(average: bool) -> Handler:
    def handler(input: Node, dim: Any = None, keepdim: bool = False, *, axis: Any = None, **_: Any) -> Op:
        dims = _dims(dim if axis is None else axis)
        return OPAQUE if dims is None else Reduce(input, dims, bool(keepdim), average)

    return handler


def _adaptive_pool(rank: int, average: bool) -> Handler:
    def handler(input: Node, output_size: Any, return_indices: bool = False) -> Op:
        output = tuple_of(output_size, rank)
        if return_indices or not all(extent is None or isinstance(extent, int) for extent in output):
            return OPAQUE
        return AdaptivePool(input, rank, output, average)

    return handler


def _window_pool(rank: int, average: bool) -> Handler:
    def handler(
        input: Node, kernel_size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any
    ) -> Op:
        covers = _is_own_extent(kernel_size, input, rank) and padding in (0, (0,) * rank, [0] * rank)
        return WindowPool(input, rank, covers, average)

    return handler


def _flatten(input: Node, start_dim: int = 0, end_dim: int = -1) -> Op:
    return Flatten(input, start_dim, end_dim)


def _unflatten(input: Node, dim: int, sizes: Any) -> Op:
    return Unflatten(input, dim, tuple(sizes)) if isinstance(sizes, (tuple, list)) else OPAQUE


def _view(input: Node, *shape: Any, **kwargs: Any) -> Op:
    sizes = kwargs.get("shape", kwargs.get("size", shape))
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    if len(sizes) == 1 and (leading := _leading_sizes(sizes[0])):
        return View(input, leading)
    usable = all(isinstance(size, int) or (isinstance(size, Node) and is_shape_value(size)) for size in sizes)
    return View(input, tuple(sizes)) if usable else OPAQUE


def _leading_sizes(size: Any) -> tuple[Any, ...]:
    """``x.shape[:2]`` as the batch and the channels, else nothing."""
    is_slice = isinstance(size, Node) and size.target is operator.getitem and size.args[1] == slice(None, 2)
    return (BATCH, CHANNELS) if is_slice and _shape_owner(size.args[0]) is not None else ()


def _squeeze(input: Node, dim: Any = None) -> Op:
    return Squeeze(input, _dims(dim))


def _unsqueeze(input: Node, dim: int) -> Op:
    return Unsqueeze(input, dim)


def _permute(input: Node, *dims: Any, **kwargs: Any) -> Op:
    order = kwargs.get("dims", dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)
    return Permute(input, tuple(order), swap=False)


def _transpose(input: Node, dim0: int, dim1: int) -> Op:
    return Permute(input, (dim0, dim1), swap=True)


def _getitem(input: Node, items: Any) -> Op:
    if is_shape_value(input):
        return SHAPE_VALUE
    parts = items if isinstance(items, tuple) else (items,)
    plain = all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts)
    return Index(input, parts) if plain and not any(True for _ in nodes_in(_slice_ends(parts))) else OPAQUE


def _slice_ends(parts: tuple[Any, ...]) -> list[Any]:
    return [end for part in parts if isinstance(part, slice) for end in (part.start, part.stop, part.step)]


def _concat(tensors: Any, dim: int = 0, **kwargs: Any) -> Op:
    usable = isinstance(tensors, (tuple, list)) and all(isinstance(item, Node) for item in tensors)
    return Concat(tuple(tensors), kwargs.get("axis", dim)) if usable else OPAQUE


def _elementwise(*args: Any, **kwargs: Any) -> Op:
    return Elementwise(tuple(nodes_in((args, kwargs))), inplace=kwargs.get("inplace") is True)


def _inplace(*args: Any, **kwargs: Any) -> Op:
    return Elementwise(tuple(nodes_in((args, kwargs))), inplace=True)


def _channelwise(*args: Any, **kwargs: Any) -> Op:
    return Elementwise(tuple(nodes_in((args, kwargs))), channels=True)


def _on_channels(input: Node, dim: Any = None, *args: Any, **kwargs: Any) -> Op:
    """A function along ``dim``; the same on a map and on its flat form only along axis 1."""
    return Elementwise((input,), channels=True) if dim == 1 else FeatureNorm(input)


def _normalize(input: Node, p: float = 2.0, dim: Any = 1, *args: Any, **kwargs: Any) -> Op:
    return _on_channels(input, dim)


def _product(*args: Any, **kwargs: Any) -> Op:
    return Product(tuple(nodes_in((args, kwargs))))


def _select(input: Node, dim: int, index: int) -> Op:
    return aten.select(input, dim, index)


def _feature_norm(input: Node, *args: Any, **kwargs: Any) -> Op:
    return FeatureNorm(input)


def _linear(input: Node, weight: Any, bias: Any = None) -> Op:
    if not isinstance(weight, Node) or not isinstance(bias, Node | None):
        return OPAQUE
    return Affine(source=input, form=Form.LINEAR, rank=0, weight_node=weight, bias_node=bias)


def _conv(rank: int, transposed: bool = False) -> Handler:
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
        linear = _linear(input, weight, bias)
        numbers = _conv_numbers(rank, stride, padding, dilation, None)
        if not isinstance(linear, Affine) or numbers is None:
            return OPAQUE
        return dataclasses.replace(
            linear, form=Form.CONV, rank=rank, groups=groups, transposed=transposed, **numbers
        )

    return handler


def _conv_numbers(
    rank: int, stride: Any, padding: Any, dilation: Any, kernel: tuple[int, ...] | None
) -> dict[str, Any] | None:
    if padding == "valid" or (padding == "same" and kernel is not None and set(kernel) == {1}):
        padding = 0
    elif padding == "same":
        padding = 1
    numbers = {
        "stride": tuple_of(stride, rank),
        "padding": tuple_of(padding, rank),
        "dilation": tuple_of(dilation, rank),
    }
    plain = all(isinstance(extent, int) for extents in numbers.values() for extent in extents)
    return numbers if plain else None


_ACTIVATIONS = (
    "relu relu6 hardtanh hardswish hardsigmoid silu gelu mish elu selu celu leaky_relu sigmoid tanh softplus "
    "softsign tanhshrink softshrink hardshrink threshold logsigmoid rrelu dropout alpha_dropout"
).split()
_ARITHMETIC = (
    "add sub mul div true_divide pow square sqrt rsqrt exp log log1p expm1 abs neg negative clamp clip "
    "clamp_min clamp_max relu sigmoid tanh reciprocal sign sin cos erf round floor ceil nan_to_num "
    "detach clone where gt lt ge le eq ne masked_fill dropout alpha_dropout threshold maximum minimum "
    "selu celu rrelu subtract multiply divide"
).split()
_INPLACE_ONLY = (
    "relu_ sigmoid_ tanh_ elu_ selu_ celu_ leaky_relu_ hardtanh_ threshold_ rrelu_ dropout_".split()
)
_OPERATORS = tuple(
    getattr(operator, name) for name in "add sub mul truediv pow neg abs gt lt ge le eq ne".split()
)
_INPLACE_OPERATORS = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)
_CASTS = "contiguous float half bfloat16 double to type type_as requires_grad_".split()


def _functions_named(names: list[str], *owners: Any) -> set[Any]:
    return {getattr(owner, name) for owner in owners for name in names if hasattr(owner, name)}


_ELEMENTWISE_FUNCTIONS: frozenset[Any] = frozenset(
    _functions_named(_ACTIVATIONS, F) | _functions_named(_ARITHMETIC, torch) | set(_OPERATORS)
)
_ELEMENTWISE_METHODS: frozenset[str] = frozenset(
    name for name in (*_ARITHMETIC, *_ACTIVATIONS, *_CASTS) if hasattr(torch.Tensor, name)
)


def _function_table() -> dict[Any, Handler]:
    table: dict[Any, Handler] = dict.fromkeys(_ELEMENTWISE_FUNCTIONS, _elementwise)
    table |= dict.fromkeys(_functions_named(_INPLACE_ONLY, torch, F), _inplace)
    table |= dict.fromkeys(_INPLACE_OPERATORS, _inplace)
    for rank in range(1, MAX_RANK + 1):
        table[getattr(F, f"adaptive_avg_pool{rank}d")] = _adaptive_pool(rank, average=True)
        table[getattr(torch.nn.functional, f"adaptive_max_pool{rank}d")] = _adaptive_pool(rank, average=False)
        table[getattr(F, f"avg_pool{rank}d")] = _window_pool(rank, average=True)
        table[getattr(F, f"max_pool{rank}d")] = _window_pool(rank, average=False)
        table[getattr(F, f"dropout{rank}d")] = _feature_norm
        table[getattr(F, f"conv{rank}d")] = _conv(rank)
        table[getattr(F, f"conv_transpose{rank}d")] = _conv(rank, transposed=True)
    table |= {
        torch.adaptive_avg_pool1d: _adaptive_pool(1, average=True),
        torch.mean: _reduce(average=True),
        torch.sum: _reduce(average=False),
        torch.amax: _reduce(average=False),
        torch.amin: _reduce(average=False),
        torch.flatten: _flatten,
        torch.unflatten: _unflatten,
        torch.reshape: _view,
        torch.squeeze: _squeeze,
        torch.unsqueeze: _unsqueeze,
        torch.permute: _permute,
        torch.transpose: _transpose,
        torch.swapaxes: _transpose,
        operator.getitem: _getitem,
        torch.select: _select,
        torch.cat: _concat,
        torch.concat: _concat,
        F.linear: _linear,
        operator.matmul: _product,
        torch.matmul: _product,
        torch.mm: _product,
        torch.bmm: _product,
        torch.addmm: _product,
        torch.einsum: _product,
        F.bilinear: _product,
        F.layer_norm: _feature_norm,
        F.batch_norm: _channelwise,
        F.group_norm: _channelwise,
        F.prelu: _channelwise,
        torch.prelu: _channelwise,
        F.softmax: _on_channels,
        torch.softmax: _on_channels,
        F.log_softmax: _on_channels,
        torch.log_softmax: _on_channels,
        F.normalize: _normalize,
    }
    if hasattr(F, "rms_norm"):
        table[F.rms_norm] = _feature_norm
    return table


def _method_table() -> dict[str, Handler]:
    table: dict[str, Handler] = dict.fromkeys(_ELEMENTWISE_METHODS, _elementwise)
    table |= {f"{name}_": _inplace for name in _ARITHMETIC if hasattr(torch.Tensor, f"{name}_")}
    table |= {
        "mean": _reduce(average=True),
        "sum": _reduce(average=False),
        "amax": _reduce(average=False),
        "amin": _reduce(average=False),
        "flatten": _flatten,
        "unflatten": _unflatten,
        "view": _view,
        "reshape": _view,
        "squeeze": _squeeze,
        "unsqueeze": _unsqueeze,
        "permute": _permute,
        "transpose": _transpose,
        "swapaxes": _transpose,
        "select": _select,
        "matmul": _product,
        "mm": _product,
        "bmm": _product,
        "addmm": _product,
        "softmax": _on_channels,
        "log_softmax": _on_channels,
    }
    return table


# --- modules --------------------------------------------------------------------------------------

_ELEMENTWISE_MODULES = frozenset(
    getattr(nn, name)
    for name in (
        "Identity ReLU ReLU6 Hardtanh Hardswish Hardsigmoid SiLU GELU Mish ELU SELU CELU LeakyReLU "
        "Sigmoid Tanh Softplus Softsign Tanhshrink Softshrink Hardshrink Threshold LogSigmoid "
        "RReLU Dropout AlphaDropout"
    ).split()
)
_BATCH_NORMS: dict[type, int | None] = {
    nn.BatchNorm1d: 1,
    nn.BatchNorm2d: 2,
    nn.BatchNorm3d: 3,
    nn.SyncBatchNorm: None,
}
_CONVS: dict[type, tuple[int, bool]] = {
    nn.Conv1d: (1, False),
    nn.Conv2d: (2, False),
    nn.Conv3d: (3, False),
    nn.ConvTranspose1d: (1, True),
    nn.ConvTranspose2d: (2, True),
    nn.ConvTranspose3d: (3, True),
}
_POOL_MODULES: dict[type, tuple[int, bool]] = {
    getattr(nn, f"Adaptive{kind}Pool{rank}d"): (rank, kind == "Avg")
    for rank in range(1, MAX_RANK + 1)
    for kind in ("Avg", "Max")
}
_WINDOW_MODULES: dict[type, tuple[int, bool]] = {
    getattr(nn, f"{kind}Pool{rank}d"): (rank, kind == "Avg")
    for rank in range(1, MAX_RANK + 1)
    for kind in ("Avg", "Max")
}


def _module_op(module: Any, node: Node) -> Op:
    """The op of a ``call_module`` node; a subclass may compute something else and is not looked up."""
    kind = type(module)
    if kind is nn.Bilinear:
        return _product(*node.args, **node.kwargs)
    source = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("x"))
    if not isinstance(source, Node) or len(node.args) + len(node.kwargs) != 1:
        return OPAQUE
    if kind in _ELEMENTWISE_MODULES:
        return Elementwise((source,), inplace=getattr(module, "inplace", False) is True)
    if kind in _BATCH_NORMS:
        return Elementwise((source,), channels=True, module_rank=_BATCH_NORMS[kind])
    if kind in _POOL_MODULES:
        rank, average = _POOL_MODULES[kind]
        return _adaptive_pool(rank, average)(
            source, module.output_size, getattr(module, "return_indices", False)
        )
    if kind in _WINDOW_MODULES:
        rank, average = _WINDOW_MODULES[kind]
        return WindowPool(source, rank, covers=False, average=average)
    if kind in (nn.Softmax, nn.LogSoftmax):
        return _on_channels(source, module.dim)
    simple: dict[type, Callable[[], Op]] = {
        nn.Flatten: lambda: Flatten(source, module.start_dim, module.end_dim),
        nn.Unflatten: lambda: _unflatten(source, module.dim, module.unflattened_size),
        nn.LayerNorm: lambda: FeatureNorm(source),
        nn.Dropout1d: lambda: FeatureNorm(source),
        nn.Dropout2d: lambda: FeatureNorm(source),
        nn.Dropout3d: lambda: FeatureNorm(source),
        nn.GroupNorm: lambda: Elementwise((source,), channels=True),
        nn.PReLU: lambda: Elementwise((source,), channels=True),
    }
    if kind in simple:
        return simple[kind]()
    if kind.__name__ == "RMSNorm":
        return FeatureNorm(source)
    return _affine_module(module, source, str(node.target))


def _affine_module(module: Any, source: Node, path: str) -> Op:
    """An affine op for a module that is, or looks like, a Linear or a convolution."""
    is_parameter = isinstance(getattr(module, "weight", None), torch.Tensor)
    weight_source = WeightSource.PARAMETER if is_parameter else WeightSource.PACKED
    has_bias = isinstance(getattr(module, "bias", None), torch.Tensor)
    bias = f"{path}.bias" if has_bias else None
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        if not (isinstance(module, nn.Linear) or "Linear" in type(module).__name__):
            return OPAQUE
        return Affine(
            source=source, form=Form.LINEAR, rank=0, weight=f"{path}.weight", bias=bias,
            weight_source=weight_source, module=module,
        )  # fmt: skip
    base = next((known for known in _CONVS if isinstance(module, known)), None)
    looks_quantized = base is None and "Conv" in type(module).__name__ and hasattr(module, "kernel_size")
    if base is None and not looks_quantized:
        return OPAQUE
    rank, transposed = _CONVS[base] if base else (len(module.kernel_size), False)
    numbers = _conv_numbers(rank, module.stride, module.padding, module.dilation, tuple(module.kernel_size))
    if numbers is None:
        return OPAQUE
    return Affine(
        source=source, form=Form.CONV, rank=rank, weight=f"{path}.weight", bias=bias,
        weight_source=weight_source, module=module, groups=module.groups, transposed=transposed, **numbers,
    )  # fmt: skip


# --- classifying ----------------------------------------------------------------------------------

_FUNCTIONS = _function_table()
_METHODS = _method_table()
_POOL_FUNCTIONS = frozenset(
    {
        target
        for target in _FUNCTIONS
        if getattr(target, "__name__", "") in ("mean", "sum", "amax", "amin")
        or "_pool" in _FUNCTIONS[target].__qualname__
    }
)
_POOL_METHODS = frozenset({"mean", "sum", "amax", "amin"})
_POOL_TYPES = frozenset({*_POOL_MODULES, *_WINDOW_MODULES})


class Vocabulary:
    """Classifies the nodes of one graph.

    Args:
        root: the module below which the graph's modules and parameters are looked up.
        lifted: names of the parameters and buffers that are inputs of the graph, by placeholder name, as
            in the graph of a ``torch.export.ExportedProgram``.
    """

    def __init__(self, root: nn.Module, lifted: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.lifted = lifted or {}
        self._modules: dict[str, nn.Module | None] = {}

    def module(self, path: str) -> nn.Module | None:
        """The module at ``path``, or None."""
        try:
            return self._modules[path]
        except KeyError:
            found: Any = self.root
            for part in path.split("."):
                found = found._modules.get(part) if isinstance(found, nn.Module) else None
            self._modules[path] = found
            return self._modules[path]

    def tensor_name(self, node: Node | None) -> str | None:
        """State-dict name of the tensor that a node reads, or None where it reads no such tensor."""
        if node is None:
            return None
        if node.op == "get_attr":
            return str(node.target)
        return self.lifted.get(node.name) if node.op == "placeholder" else None

    def pools(self, graph: Graph) -> list[Node]:
        """The nodes that can be pools by their target, in no order; linear in the module calls."""
        targets = (*_POOL_FUNCTIONS, *aten.pool_targets())
        found = [
            node
            for target in targets
            for node in graph.find_nodes(op="call_function", target=target, sort=False)
        ]
        found += [
            node for node in graph.find_nodes(op="call_method", sort=False) if node.target in _POOL_METHODS
        ]
        kinds: dict[Any, bool] = {}
        for node in graph.find_nodes(op="call_module", sort=False):
            target = node.target
            if target not in kinds:
                kinds[target] = type(self.module(target)) in _POOL_TYPES
            if kinds[target]:
                found.append(node)
        return found

    def classify(self, node: Node) -> Op:
        """The typed op of a node; ``Opaque`` where the vocabulary has no entry for it."""
        if node.op == "call_module":
            module = self.module(str(node.target))
            return OPAQUE if module is None else _module_op(module, node)
        if node.op not in ("call_function", "call_method"):
            return OPAQUE
        if is_shape_value(node):
            return SHAPE_VALUE
        handler = _handler(node)
        if handler is None:
            return OPAQUE
        try:
            op = handler(*node.args, **node.kwargs)
        except TypeError:  # an overload that the handler does not know
            return OPAQUE
        if isinstance(op, Affine):
            return self._named(node, op)
        source = getattr(op, "source", None)
        return op if source is None or isinstance(source, Node) else OPAQUE

    def _named(self, node: Node, op: Affine) -> Op:
        """The affine op with the names of what it reads."""
        if not isinstance(op.source, Node):
            return OPAQUE
        weight, bias = self._own_name(node, op.weight_node), self._own_name(node, op.bias_node)
        source = WeightSource.PARAMETER
        if weight is None and value_of(op.weight_node) is not None and is_input(op.weight_node):
            source, weight = WeightSource.INPUT, op.weight_node.name if op.weight_node else None
            bias = op.bias_node.name if op.bias_node is not None else None
        elif weight is None or (bias is None and op.bias_node is not None):
            source = WeightSource.COMPUTED
        return dataclasses.replace(op, weight=weight, bias=bias, weight_source=source)

    def _own_name(self, node: Node, read: Node | None) -> str | None:
        """The name of a tensor, for tied ones that below the module which the node comes from."""
        name = self.tensor_name(read)
        stack = node.meta.get("nn_module_stack")
        if name is None or not stack or isinstance(node.target, str):
            return name
        path = str(next(reversed(stack.values()))[0])
        own = f"{path}.{name.rpartition('.')[2]}"
        return own if own != name and self._tensor(own) is self._tensor(name) else name

    def _tensor(self, name: str | None) -> torch.Tensor | None:
        found: Any = self.root
        for part in (name or "").split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, torch.Tensor) else None

    def weight(self, op: Affine) -> torch.Tensor | None:
        """The op's weight: the parameter, or for an input of the graph what tracing knew of it."""
        if op.weight_source is WeightSource.INPUT:
            return value_of(op.weight_node)
        return self._tensor(op.weight)


def value_of(node: Node | None) -> torch.Tensor | None:
    """The fake tensor that torch.export or torch.compile left on a node, or None."""
    if node is None:
        return None
    value = node.meta.get("val", node.meta.get("example_value"))
    return value if isinstance(value, torch.Tensor) else None


def static_extent(extent: int | torch.SymInt) -> int | None:
    """An extent that the program fixes, also where torch.export found out late; None for a symbolic one."""
    return extent if isinstance(extent, int) else extent.node.maybe_as_int()


def is_input(node: Node | None) -> bool:
    """Whether a node is an input of its graph."""
    return node is not None and node.op == "placeholder"


def _handler(node: Node) -> Handler | None:
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return _aten_handlers().get(aten.name_of(target))
    if target is operator.getitem and aten.is_first_result(node):
        return _elementwise
    return _FUNCTIONS.get(target)


@functools.cache
def _aten_handlers() -> dict[str, Handler]:
    """Handlers of ATen operators by name, those of torch's functions where the arguments are alike."""
    table: dict[str, Handler] = dict.fromkeys(aten.ELEMENTWISE, _elementwise)
    table |= dict.fromkeys(aten.CHANNELWISE, _channelwise)
    table |= dict.fromkeys(aten.NORMS, _feature_norm)
    table |= dict.fromkeys(aten.ALONG_DIM, _on_channels)
    table |= {f"{name}_": _inplace for name in aten.ELEMENTWISE}
    for rank in range(1, MAX_RANK + 1):
        for prefix in ("", "_"):
            table[f"{prefix}adaptive_avg_pool{rank}d"] = _adaptive_pool(rank, average=True)
        table[f"adaptive_max_pool{rank}d"] = _adaptive_pool(rank, average=False)
        table[f"avg_pool{rank}d"] = _window_pool(rank, average=True)
        table[f"max_pool{rank}d"] = _window_pool(rank, average=False)
        table[f"conv{rank}d"] = _conv(rank)
        table[f"conv_transpose{rank}d"] = _conv(rank, transposed=True)
    return table | {
        "mean": _reduce(average=True),
        "sum": _reduce(average=False),
        "amax": _reduce(average=False),
        "amin": _reduce(average=False),
        "flatten": _flatten,
        "unflatten": _unflatten,
        "view": _view,
        "_unsafe_view": _view,
        "reshape": _view,
        "squeeze": _squeeze,
        "unsqueeze": _unsqueeze,
        "permute": _permute,
        "transpose": _transpose,
        "t": lambda input: Permute(input, (1, 0), swap=False),
        "select": aten.select,
        "slice": aten.slice_,
        "as_strided": aten.as_strided,
        "cat": _concat,
        "linear": _linear,
        "addmm": lambda *args, **kwargs: aten.addmm(_linear, *args, **kwargs) or _product(*args),
        "mm": lambda input, other: aten.mm(_linear, input, other) or _product(input, other),
        "matmul": lambda input, other: aten.mm(_linear, input, other) or _product(input, other),
        "bmm": _product,
        "einsum": _product,
        "bilinear": _product,
        "_trilinear": _product,
        "convolution": lambda *args: aten.convolution(_conv, *args),
    }
